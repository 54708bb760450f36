"""graphopt compile and graphopt run as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from test_bad_input import fails, run

import graphopt
from graphopt import judge as judging
from graphopt.compile import compile_file
from graphopt.errors import UnsupportedError, UsageError, VerificationError
from graphopt.frontends.onnx_file import save
from graphopt.oracle import error_of
from graphopt.runtime.run import open_file
from graphopt.runtime.targets import target
from tests.runtime.cross import need

NET = """(float[N,4,S,S] images) => (float[N,8,S,S] y, float[N,8] scores)
    <float[8,4,3,3] w, float[8] gamma, float[8] beta, float[8] mean, float[8] var>
    { c = Conv <pads = [1,1,1,1]> (images, w)  b = BatchNormalization (c, gamma, beta, mean, var)
      y = LeakyRelu <alpha = 0.1> (b)  p = GlobalAveragePool (y)  scores = Flatten (p) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "My Net.onnx"
    graphopt.save(graph_from(NET), path)
    return path


def test_compile_then_run(model: Path) -> None:
    need("cc")
    done = run("compile", model, "--target", "host", "--size", "S=18")
    assert done.returncode == 0, done.stderr
    folder = model.with_name("My Net.host")
    told = done.stdout
    assert "equal to ONNX Runtime: worst error" in told
    for word in ("MACs", "weights", "arena", "least any plan needs", "written", f"wrote {folder}"):
        assert word in told
    assert told.strip().splitlines()[-1].startswith("PASSED in ")
    check = subprocess.run([folder / "run", "--check"], capture_output=True, text=True, check=True)
    assert check.stdout.count(": ok") == 2

    x, y = model.with_name("x.npy"), model.with_name("y.npy")
    np.save(x, np.random.default_rng(0).standard_normal((1, 4, 18, 18)).astype(np.float32))
    done = run("run", folder, "--input", x, "--output", f"y={y}", "--threads", 2, "--profile")
    assert done.returncode == 0, done.stderr
    assert "GMAC/s" in done.stdout
    assert "compiled: median" in done.stdout
    expected = open_file(model).run({"images": np.load(x)})["y"]
    assert error_of(expected, np.load(y)) < 1e-4

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    told = fails(model.parent, "compile", model, "--target", "host", "--size", "S=18", code=2)
    assert "My Net.host exists; --force replaces it" in told
    done = run("compile", model, "--target", "host", "--size", "S=18", "--force", "--json")
    found = json.loads(done.stdout)
    assert found["path"] == str(folder)
    assert found["error"] <= found["tolerance"] == 1e-4
    assert found["manifest"]["macs"] == 18 * 18 * 9 * 4 * 8
    assert found["bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}, "other bytes"


def test_a_board(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("zig", "qemu", "sysroot")
    tx2 = target("tx2")
    folder = model.with_name("b")
    made = compile_file(model, folder, target=tx2, sizes={"S": 18})
    assert made.unverified == ""
    assert made.error is not None
    assert made.error <= 1e-4
    assert "run by qemu as a cortex-a57" in made.manifest["verified"]
    done = run("run", folder)
    assert done.returncode == 0, done.stderr
    assert "run by qemu as a cortex-a57, whose times say nothing of the board" in done.stdout
    told = fails(model.parent, "run", folder, "--profile", code=2)
    assert "there, `./run --profile` tells" in told

    monkeypatch.setattr("graphopt.runtime.emulator.shutil.which", lambda _: None)
    made = compile_file(model, folder, target=tx2, sizes={"S": 18}, replace=True)
    assert made.error is None
    assert made.unverified.endswith("needs qemu-aarch64 (apt install qemu-user)")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "not run where it was compiled: running programs for tx2 needs qemu-aarch64" in readme
    with pytest.raises(UsageError, match="needs qemu-aarch64"):
        compile_file(model, folder, target=tx2, sizes={"S": 18}, replace=True, verify=True)


def test_half_precision(model: Path) -> None:
    """What suits the board, said unless it was asked for; within what three digits allow."""
    need("zig", "qemu", "sysroot")
    board, sizes = target("kirin990"), {"S": 18}
    how = {"target": board, "abi": "linux-musl", "sizes": sizes}
    made = compile_file(model, model.with_name("h"), **how)
    assert made.manifest["precision"] == "float16"
    assert made.error is not None
    assert 1e-4 < made.error <= made.tolerance
    assert 5e-2 <= made.tolerance < 6e-2
    assert made.notes[0].startswith("computed in float16, which suits kirin990 best; --precision")
    named = compile_file(model, model.with_name("n"), precision="float16", **how)
    assert named.notes == ()
    plain = compile_file(model, model.with_name("f"), precision="float32", **how)
    assert plain.notes == ()
    assert (plain.error or 0) < 1e-5
    assert plain.manifest["memory"]["weights"] > made.manifest["memory"]["weights"]


def quantized(path: Path) -> Path:
    """Writes a network of one convolution of integers."""
    graph = graph_from(
        """(float[1,16,6,6] x) => (float[1,16,6,6] y) <float s = {0.05}, int8 z = {3}, int8[16,16,3,3] w, float[16] v, int8[16] n>
        { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  f = DequantizeLinear <axis = 0> (w, v, n)
          c = Conv <pads = [1,1,1,1]> (d, f)  r = QuantizeLinear (c, s, z)  y = DequantizeLinear (r, s, z) }"""
    )
    rng = np.random.default_rng(0)
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.name == "w":
                tensor.values = rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
            if tensor.name == "v":
                tensor.values = np.full(16, 0.002, np.float32)
            if tensor.name == "n":
                tensor.values = np.zeros(16, np.int8)
    save(graph, path)
    return path


def test_a_quantized_network(tmp_path: Path) -> None:
    """Integers are integers whatever floats should be, and that is said."""
    need("cc")
    path = quantized(tmp_path / "q.onnx")
    made = compile_file(path, tmp_path / "q", target=target("host"))
    assert (made.manifest["precision"], made.notes) == ("int8 and float32", ())
    assert made.error == 0
    assert made.manifest["memory"]["weights"] < 4096


def test_half_precision_is_compared_with_what_half_can_be(tmp_path: Path, monkeypatch) -> None:
    """Where storing tensors in half alone moves outputs, sums in half may move them some times more."""
    need("cc")
    if "float16" in target("host").unsupported:
        pytest.skip("this machine has no arithmetic in half precision")
    path = tmp_path / "net.onnx"
    graphopt.save(graph_from(NET), path)
    sizes = {"S": 12}
    made = compile_file(
        path, tmp_path / "a", target=target("host"), sizes=sizes, precision="float16"
    )
    assert made.tolerance == pytest.approx(5e-2)
    assert 1e-5 < (made.error or 0) < 2e-2
    assert not any("half precision" in n for n in made.notes)
    monkeypatch.setattr(judging, "_MUCH", 1e-6)
    noted = compile_file(
        path, tmp_path / "b", target=target("host"), sizes=sizes, precision="float16"
    )
    assert any("half precision moves outputs" in n for n in noted.notes)
    monkeypatch.setitem(judging.TOLERANCE, "float16", 1e-7)
    strict = compile_file(
        path, tmp_path / "c", target=target("host"), sizes=sizes, precision="float16"
    )
    assert 1e-4 < strict.tolerance < 5e-2


def test_how_exact_a_quantized_network_is(tmp_path: Path, monkeypatch) -> None:
    """As exact as ONNX Runtime is with itself, where it rounds differently; else as any network."""
    need("cc")
    path = quantized(tmp_path / "net.onnx")
    exact = compile_file(path, tmp_path / "exact", target=target("host"))
    assert exact.tolerance < 2e-3
    real = judging.open_graph

    class Shifted:
        """ONNX Runtime's integers, all a hundredth too large."""

        name = "shifted"

        def __init__(self, runner) -> None:
            self._runner = runner

        def run(self, feeds):
            return {k: v * 1.01 for k, v in self._runner.run(feeds).items()}

    monkeypatch.setattr(judging, "open_graph", lambda *a, **k: Shifted(real(*a, **k)))
    rounded = compile_file(path, tmp_path / "rounded", target=target("host"))
    assert 1.5e-2 < rounded.tolerance <= 2.5e-2
    assert "moves its outputs" not in " ".join(exact.notes)
    graphopt.save(graph_from(NET), tmp_path / "float.onnx")
    sizes = {"S": 12}
    plain = compile_file(
        tmp_path / "float.onnx", tmp_path / "f", target=target("host"), sizes=sizes
    )
    assert plain.tolerance < 2e-3


def test_large_networks_are_not_emulated_unasked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("zig")
    monkeypatch.setattr("graphopt.judge._MOST_EMULATED_MACS", 1000)
    made = compile_file(model, model.with_name("b"), target=target("tx2"), sizes={"S": 18})
    assert "take an emulator 0 minutes; --verify has them taken" in made.unverified


def test_a_bundle_that_computes_something_else_is_not_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("cc")
    from graphopt.runtime.deploy import build

    def wrong(constants: list[np.ndarray], path: Path) -> object:  # type: ignore[type-arg]
        return build_weights([c * np.float32(1.01) for c in constants], path)

    build_weights = build.write_weights
    monkeypatch.setattr(build, "write_weights", wrong)
    with pytest.raises(VerificationError, match="the outputs are not those of ONNX Runtime; noth"):
        compile_file(model, model.with_name("b"), target=target("host"), sizes={"S": 18})
    # What the digest lets through is seen element by element.
    monkeypatch.setattr("graphopt.compile.CHECK_TOLERANCE", 1.0)
    with pytest.raises(
        VerificationError, match=r"output 'y' of the bundle differs .* > 0.0001 in its"
    ):
        compile_file(model, model.with_name("b"), target=target("host"), sizes={"S": 18})
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_a_net_that_is_not_optimized_is_compiled_as_it_is(model: Path) -> None:
    need("cc")
    made = compile_file(
        model, model.with_name("b"), target=target("host"), sizes={"S": 18}, optimize=False
    )
    assert made.error is not None
    assert "optimizing" not in made.seconds


def test_a_limit_for_transformed_weights(tmp_path: Path) -> None:
    need("cc")
    layers = """(float[1,64,32,32] x) => (float[1,64,32,32] y) <float[64,64,3,3] v, float[64,64,3,3] w>
        { c = Conv <pads = [1,1,1,1]> (x, v)  y = Conv <pads = [1,1,1,1]> (c, w) }"""
    save(graph_from(layers), tmp_path / "m.onnx")
    taken = []
    for limit in (None, "0.2", "0"):
        more = [] if limit is None else ["--transformed-weights", limit]
        place = tmp_path / f"b{limit}"
        done = run("compile", tmp_path / "m.onnx", "--target", "host", "-o", place, *more)
        assert done.returncode == 0, done.stderr
        manifest = json.loads((place / "manifest.json").read_text())
        taken.append(manifest["memory"]["lasting"])
    free, limited, none = taken
    assert free > 200_000 >= limited
    assert none == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "dimension 2 (S) of input 'images' is not fixed"),
        (["--size", "S"], "--size 'S': write NAME=640"),
        (["--size", "S=0"], "--size 'S=0': write NAME=640"),
        (["--size", "T=64"], "the model has no dimension called 'T'"),
        (["--size", "S=18", "--abi", "android"], "host has no ABI called 'android'"),
        (["--size", "S=18", "--precision", "int8"], "`graphopt quantize` first"),
        (["--size", "S=18", "--precision", "int3"], "no precision is called 'int3'"),
        (["--size", "S=18", "--toolchain", "ndk"], "'ndk' does not build for linux-gnu"),
        (["--size", "S=18", "-o", "nowhere/b"], "nowhere does not exist"),
        (["--format", "onnx", "--transformed-weights", "3"], "are for code"),
    ],
)
def test_what_cannot_be_meant(options: list[str], told: str, model: Path) -> None:
    assert told in fails(model.parent, "compile", model, "--target", "host", *options, code=2)


@pytest.mark.parametrize(
    ("board", "options", "told"),
    [
        ("tx3", [], "no target is called 'tx3'; did you mean tx2?"),
        ("tx2-gpu", ["--precision", "int8"], "sm_62 has no dp4a, so no int8"),
        ("tx2-gpu", ["--transformed-weights", "3"], "its GPU transforms no weights"),
        ("tx2", ["--precision", "float16"], "tx2 cannot do float16: Cortex-A57 has no fp16"),
    ],
)
def test_boards_that_cannot_be_meant(
    board: str, options: list[str], told: str, model: Path
) -> None:
    assert told in fails(model.parent, "compile", model, "--target", board, *options, code=2)


def test_a_missing_toolchain_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    options = ["--size", "S=18", "--toolchain", "gcc"]
    told = fails(model.parent, "compile", model, "--target", "tx2", *options, code=2)
    assert "no C compiler for tx2, linux-gnu" in told
    assert "aarch64-linux-gnu-gcc is not installed (apt install gcc-aarch64-linux-gnu)" in told


def test_operators_without_a_kernel_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    graphopt.save(graph_from("(float[4,4] x) => (float y) { y = Det (x) }"), path)
    with pytest.raises(UnsupportedError, match=r"Det .*TVM cannot import it"):
        compile_file(path, tmp_path / "b", target=target("host"))
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_runs_in_onnx_runtime(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.onnx"
    graphopt.save(graph_from(NET.replace("S", "10")), fixed)
    done = run("run", fixed, "--iters", 3, "--json", "--output", tmp_path / "y.npy")
    found = json.loads(done.stdout)
    assert found["ran"] == "ONNX Runtime"
    assert [v["shape"] for v in found["outputs"]] == [[1, 8, 10, 10], [1, 8]]
    assert np.load(tmp_path / "y.npy").shape == (1, 8, 10, 10)
    assert found["ms"]["runs"] == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--input", "x.npy"], 1, "x.npy: No such file"),
        (["--input", "pixels=x.npy"], 2, "pixels"),
        (["--output", "a", "--output", "b", "--output", "c"], 2, "there are no more than 2"),
        (["--profile"], 2, "layers are timed of compiled models only"),
    ],
)
def test_runs_that_cannot_be_meant(words: list[str], code: int, told: str, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.onnx"
    graphopt.save(graph_from(NET.replace("S", "10")), fixed)
    assert told in fails(tmp_path, "run", fixed, *words, code=code)


def test_the_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "graphopt", "compile", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert "--target" in done.stdout
    assert not any(f" {m}\n" in done.stderr for m in ("numpy", "tvm", "onnx", "torch"))
