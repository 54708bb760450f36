"""Bundles for GPUs: their library and runner on an OpenCL device, and what they say when things go wrong."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from devices import MALI, TX2, assert_close, bundle, expected, need_opencl, normal, opened

import graphopt
from graphopt.compile import compile_file
from graphopt.errors import RunError, UsageError, VerificationError
from graphopt.runtime.deploy import tables
from graphopt.runtime.deploy.build import FUNCTIONS, library_objects
from graphopt.runtime.deploy.bundle import drawn_inputs, make_bundle
from graphopt.runtime.deploy.weights import write_weights
from graphopt.runtime.elf import loads_on, read_elf
from graphopt.runtime.gpu import twin
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.native import NativeRunner, ProgramRunner, open_bundle, read_manifest
from graphopt.runtime.run import open_graph
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need

# Not pedantic: the kernels' text is longer than any string that C promises to take.
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-O1"]
SMALL = """(float[1,6,9,10] x, int64[2] rows) => (float[1,8,9,10] y, float[2,3] g)
    <float[8,6,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[5,3] table>
    { a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)  y = Conv (r, w2)
      g = Gather <axis = 0> (table, rows) }"""


@pytest.fixture(scope="module", name="small")
def small_network() -> GpuCompiled:
    return compile_for_gpu(graph_from(SMALL), MALI)


@pytest.fixture(scope="module", name="folder")
def small_bundle(small: GpuCompiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine, which nobody may write into."""
    need_opencl()
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    reference = open_graph(graph_from(SMALL)).run(drawn_inputs(small.program))
    make_bundle(
        small,
        folder,
        name="small",
        tools=toolchain_for(MALI, "host"),
        reference=reference,
        tolerance=5e-2,
    )
    return folder


def test_the_library_runs_profiles_and_refuses(folder: Path, small: GpuCompiled) -> None:
    feeds = normal(small)
    wanted = expected(graph_from(SMALL), small)
    with opened(folder) as runner:
        first = runner.run(feeds)
        assert_close(first, wanted, 5e-3)
        again, layers = runner.profile(feeds)
        assert all(np.array_equal(first[k], again[k]) for k in first)
        assert [v.name for v in layers] == [s.what for s in small.program.steps]
        assert sum(v.macs for v in layers) == sum(s.macs for s in small.program.steps) > 0
        assert all(v.ms >= 0 for v in layers)
        assert (runner.threads, runner.bound) == (1, 0)
        _refuses(runner, feeds)
        assert_close(runner.run(feeds), wanted, 5e-3)  # nothing of it is left


def _refuses(runner: NativeRunner, feeds: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    call, handle = runner._function, runner._handle
    data = feeds["x"]

    def told(result: int) -> str:
        assert result == -1
        return str(call("error")(handle).decode())

    assert "has 2160 bytes, not 8" in told(call("set_input")(handle, 0, data.ctypes.data, 8))
    assert "there is no input 9" in told(call("set_input")(handle, 9, data.ctypes.data, 8))
    assert "no memory was given" in told(call("set_input")(handle, 0, None, data.nbytes))
    assert call("set_input")(handle, 0, data.ctypes.data, data.nbytes) == 0
    assert "input rows was not set" in told(call("run")(handle))
    out = np.empty((1, 8, 9, 10), np.float32)
    assert "there are no outputs" in told(
        call("get_output")(handle, 0, out.ctypes.data, out.nbytes)
    )
    assert "layers, not 1" in told(call("run_profiled")(handle, out.ctypes.data, 1))


def test_the_runner_checks_itself_and_says_where_it_runs(folder: Path) -> None:
    runner = open_bundle(folder)
    assert isinstance(runner, NativeRunner)
    runner.close()
    program = ProgramRunner(folder)
    done = program.execute(["--check", "--iters", "2", "--profile"])
    assert f"layers on {twin.device_here('opencl').name}" in done.stdout
    assert "check y: deviation" in done.stdout
    assert "DIFFERS" not in done.stdout
    bad = ProgramRunner(folder, threads=2).execute([], check=False)
    assert bad.returncode == 1
    assert "a network on a GPU has no threads to choose or to bind" in bad.stderr


def test_damaged_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(folder, copy)
    data = bytearray((copy / "model.weights").read_bytes())
    for damaged, told in (
        (data[:-64], "should have"),
        (data[:20], "is not a weights file"),
        (data[:100] + bytes([data[100] ^ 1]) + data[101:], "is damaged"),
    ):
        (copy / "model.weights").write_bytes(damaged)
        done = ProgramRunner(copy).execute([], check=False)
        assert done.returncode == 1
        assert told in done.stderr
    (copy / "model.weights").unlink()
    assert "cannot open the weights" in ProgramRunner(copy).execute([], check=False).stderr


def test_a_bundle_says_what_it_is(folder: Path, small: GpuCompiled) -> None:
    found = read_manifest(folder)
    assert found["gpu"]["driver"] == "opencl"
    assert found["gpu"]["arch"] == "mali-g76"
    assert len(found["gpu"]["kernels_sha256"]) == 64
    assert (found["precision"], found["abi"], found["threads"]) == ("float16", "host", 1)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "libOpenCL.so" in text
    assert "--threads" not in text
    assert "pthread;m;dl" in (folder / "graphopt-model.cmake").read_text(encoding="utf-8")
    header = (folder / "model.h").read_text(encoding="utf-8")
    assert all(f"small_{name}(" in header for name in FUNCTIONS)
    assert len(small.symbols) == found["kernels"]


def test_the_same_network_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = compile_for_gpu(graph_from(SMALL), MALI)
    tools = toolchain_for(MALI, "host")
    make_bundle(again, tmp_path / "again", name="small", tools=tools)
    for name in ("libmodel.so", "model.weights"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "change", "told"),
    [
        (
            ('-DSMALL_OPENCL_LIBRARIES="libnowhere.so.1"',),
            None,
            "libnowhere.so.1 cannot be opened: .*no such file",
        ),
        (
            ('-DSMALL_OPENCL_LIBRARIES="libm.so.6"',),
            None,
            "the OpenCL library has no clGetPlatformIDs",
        ),
        (
            (),
            ("fmax(", "no_such_function("),
            r"does not build the kernels \(its compiler refuses them .*no_such_function",
        ),
        ((), ("KERNEL(64, 1, 1)", "KERNEL(32, 1, 1)"), "layer .*: .*OpenCL error -54"),
        (
            (),
            (") void kernel_1(", ") void kernel_x("),
            "layer .* has no kernel: .*OpenCL error -46",
        ),
    ],
    ids=[
        "no driver",
        "another library",
        "no compiler takes it",
        "another size",
        "a kernel is missing",
    ],
)
def test_what_goes_wrong_is_told(
    flags: tuple[str, ...],
    change: tuple[str, str] | None,
    told: str,
    small: GpuCompiled,
    tmp_path: Path,
) -> None:
    need_opencl()
    broken = small
    if change is not None:
        assert change[0] in small.source
        broken = replace(small, source=small.source.replace(*change))
    folder = bundle(broken, tmp_path / "bundle", flags=flags)
    with pytest.raises(RunError, match=f"(?is){told}"), opened(folder) as runner:
        runner.run(normal(small))


def test_several_models_live_in_one_process(folder: Path, small: GpuCompiled) -> None:
    feeds = normal(small)
    with opened(folder) as first, opened(folder) as second:
        a, b = first.run(feeds), second.run(feeds)
        assert all(np.array_equal(a[k], b[k]) for k in a)


def test_weights_may_be_in_memory(folder: Path) -> None:
    with opened(folder) as runner:
        create = runner._function("create_from")
        create.restype = ctypes.c_void_p
        create.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_void_p] * 2 + [ctypes.c_size_t]
        )
        data = np.fromfile(folder / "model.weights", np.uint8)
        aligned = np.zeros(data.size + 64, np.uint8)
        start = -aligned.ctypes.data % 64
        aligned[start : start + data.size] = data
        made = create(aligned[start:].ctypes.data, data.size, None, None, 0)
        assert made
        runner._function("destroy")(made)


@pytest.mark.parametrize("driver", ["opencl", "cuda"])
def test_the_host_code_is_strict_c(driver: str, small: GpuCompiled, tmp_path: Path) -> None:
    """No warning of a strict compiler; no error of its sanitizers while it runs, and while it cannot."""
    need_opencl()
    need("zig")
    own = replace(small, driver=driver, target=TX2 if driver == "cuda" else MALI)
    weights = write_weights(small.program.constants, tmp_path / "model.weights")
    tools = toolchain_for(MALI, "host")
    texts = {"expected.c": tables.expected([], 0.0)}
    library_objects(own, tmp_path, "nn", tools, weights, texts=texts)
    sources = [
        tmp_path / f"{n}.c" for n in ("network", "kernels", "gpu", driver, "ports", "weights")
    ]
    sources += [tmp_path / f"{n}.c" for n in ("run", "npy", "check", "expected")]
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wstrict-prototypes"]
    program = tmp_path / "run"
    command = [
        "cc",
        *STRICT,
        *flags,
        *map(str, sources),
        "-o",
        str(program),
        "-lm",
        "-lpthread",
        "-ldl",
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    # A driver keeps what it likes.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    for words in (["--iters", "2", "--profile"], ["--threads", "3"], ["--weights", "nowhere"]):
        done = subprocess.run(
            [str(program), *words], capture_output=True, text=True, check=False, env=environment
        )
        runs = driver == "opencl" and words[0] == "--iters"
        assert done.returncode == (0 if runs else 1), done.stdout + done.stderr
        assert "Sanitizer" not in done.stderr


# --- for boards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "abi", "left_out"),
    [
        (TX2, "linux-gnu", []),
        (MALI, "android", ["libmodel.a", "run"]),
        pytest.param(MALI, "linux-musl", ["run"], marks=pytest.mark.slow),
    ],
    ids=["tx2", "android", "musl"],
)
def test_a_board_gets_a_library_its_c_library_takes(
    board: object, abi: str, left_out: list[str], tmp_path: Path
) -> None:
    need("zig")
    compiled = compile_for_gpu(graph_from(SMALL), board)  # type: ignore[arg-type]
    folder = tmp_path / "bundle"
    found = make_bundle(compiled, folder, name="small", tools=toolchain_for(board, abi))  # type: ignore[arg-type]
    assert sorted(found["left_out"]) == left_out
    elf = read_elf(folder / "libmodel.so")
    assert loads_on(elf, board.abi(abi)) == []  # type: ignore[attr-defined]
    assert not any("OpenCL" in name or "cuda" in name for name in elf.needed)
    data = (folder / "libmodel.so").read_bytes()
    assert (b".target sm_62" if board is TX2 else b"__kernel") in data


def test_on_a_board_without_a_driver_the_runner_says_so(tmp_path: Path) -> None:
    need("zig", "qemu", "sysroot")
    compiled = compile_for_gpu(graph_from(SMALL), TX2)
    folder = tmp_path / "bundle"
    make_bundle(compiled, folder, name="small", tools=toolchain_for(TX2))
    done = ProgramRunner(folder).execute([], check=False)
    assert done.returncode == 1
    assert "libcuda.so.1 cannot be opened" in done.stderr


# --- the whole way -------------------------------------------------------------------------------


def _saved(folder: Path) -> Path:
    path = folder / "small.onnx"
    graphopt.save(graph_from(SMALL), path)
    return path


def test_a_compiled_file_is_proven_on_this_machine(tmp_path: Path) -> None:
    need_opencl()
    need("zig")
    made = compile_file(_saved(tmp_path), tmp_path / "out", target=TX2)
    assert made.error is not None
    assert made.error <= made.tolerance
    found = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert found["precision"] == "float16"
    assert found["abi"] == "linux-gnu"
    assert "the same kernels" in found["verified"]
    assert found["check"]["outputs"]["y"]["count"] == 720


def test_wrong_kernels_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_opencl()
    need("zig")
    from graphopt import compile as module

    def wrong(*given: object, **told: object) -> GpuCompiled:
        right = compile_for_gpu(*given, **told)  # type: ignore[arg-type]
        return replace(right, source=right.source.replace("fma(", "fma(2.0f * "))

    monkeypatch.setattr(module, "compile_for_gpu", wrong)
    with pytest.raises(VerificationError, match="nothing was written"):
        compile_file(_saved(tmp_path), tmp_path / "out", target=MALI, abi="host")
    assert not (tmp_path / "out").exists()


def test_without_a_device_a_bundle_says_that_nobody_ran_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("zig")
    monkeypatch.setattr(twin, "device_here", lambda _: twin.Device("", "it is not there"))
    made = compile_file(_saved(tmp_path), tmp_path / "out", target=TX2)
    assert made.error is None
    assert (
        "neither a CUDA device on this machine (it is not there) nor one of OpenCL"
        in made.unverified
    )
    assert "not run where it was compiled" in made.manifest["verified"]
    with pytest.raises(UsageError, match="neither a CUDA device"):
        compile_file(_saved(tmp_path), tmp_path / "other", target=TX2, verify=True)
