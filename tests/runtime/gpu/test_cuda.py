"""The way through CUDA: PTX for sm_62, and host code over a driver that computes on this processor."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from devices import (
    TX2,
    assert_close,
    bundle,
    compiled_text,
    expected,
    fake_cuda,
    normal,
    on_fake_cuda,
    opened,
)

from graphopt.errors import RunError, ToolchainError
from graphopt.runtime.gpu import choose
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.gpu.products import Tile
from graphopt.runtime.gpu.ptx import ptx_of
from tests.runtime.cross import need

# All kinds of kernels, so that a small network needs every one.
NETWORK = """(float[1,6,9,10] x) => (float[1,10] y, float[1,20,9,10] z, float[1,9,10,20] t)
    <float[20,6,3,3] w0, float[20] b0, float[20,1,3,3] w1, float[20,20,3,3] w2, float[20,20,1,1] w3,
     float[10,20] w4, float[10] b4,
     float[20,40,1,1] w5>
    { a = Conv <pads = [1,1,1,1]> (x, w0, b0)  s = Sigmoid (a)  b = Mul (a, s)
      c = Conv <pads = [1,1,1,1], group = 20> (b, w1)  d = Relu (c)
      e = Conv <pads = [1,1,1,1]> (d, w2)  f = Add (e, b)
      g = GlobalAveragePool (f)  h = Conv (g, w3)  i = HardSigmoid (h)  z = Mul (f, i)
      p = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (z)
      q = GlobalMaxPool (p)  r = Flatten (q)  l = Gemm <transB = 1> (r, w4, b4)  y = Softmax (l)
      u = Concat <axis = 1> (b, d)  v = Conv (u, w5)  t = Transpose <perm = [0,2,3,1]> (v) }"""
RTOL = {"float32": 2e-5, "float16": 1e-2}


@pytest.fixture(scope="module", name="ptx")
def text_of_ptx() -> str:
    need("zig")
    return ptx_of(compiled_text(NETWORK, "float16")[1].source, "sm_62")


def test_ptx_is_for_the_board_and_its_oldest_driver(ptx: str) -> None:
    assert re.search(r"^\.version 6\.5$", ptx, re.M)
    assert re.search(r"^\.target sm_62$", ptx, re.M)
    assert "call.uni" not in ptx  # nothing is left to be linked, and no kernel pays for a call
    assert ".extern" not in ptx
    names = re.findall(r"\.visible \.entry (\w+)\(", ptx)
    compiled = compiled_text(NETWORK, "float16")[1]
    assert sorted(names) == sorted(compiled.symbols.values())
    for kernel, name in compiled.symbols.items():
        size = ", ".join(map(str, kernel.local))  # type: ignore[attr-defined]
        assert re.search(rf"\.entry {name}\([^)]*\).*\n\.reqntid {size}\n", ptx)


def test_products_in_half_precision_take_two_at_a_time(ptx: str) -> None:
    assert "fma.rn.f16x2" in ptx
    assert "fma.rn.f16x2" not in ptx_of(compiled_text(NETWORK, "float32")[1].source, "sm_62")


def test_weights_are_read_as_what_nobody_writes(ptx: str) -> None:
    assert "ld.global.nc" in ptx


def _ptxas() -> str | None:
    """An assembler that knows sm_62: that of CUDA 13 does not."""
    spec = find_spec("nvidia.cuda_nvcc") if find_spec("nvidia") else None
    places = [
        Path(p) / "bin" / "ptxas" for p in (spec.submodule_search_locations if spec else None) or []
    ]
    found = [*(str(p) for p in places), os.environ.get("GRAPHOPT_PTXAS"), shutil.which("ptxas")]
    for path in filter(None, found):
        told = subprocess.run([path, "--help"], capture_output=True, text=True, check=False).stdout
        if "'sm_62'" in told:
            return path
    return None


def test_the_assembler_takes_it_and_registers_suffice(ptx: str, tmp_path: Path) -> None:
    assembler = _ptxas()
    if assembler is None:
        pytest.skip(
            "no ptxas for sm_62 here (pip install nvidia-cuda-nvcc-cu12, or GRAPHOPT_PTXAS)"
        )
    (tmp_path / "k.ptx").write_text(ptx, encoding="utf-8")
    command = [assembler, "-arch=sm_62", "-v", "k.ptx", "-o", "k.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores", done.stderr)
    assert spills
    assert set(spills) == {"0"}


def test_text_clang_refuses_is_an_error_with_its_words() -> None:
    need("zig")
    with pytest.raises(ToolchainError, match="could not make PTX of the kernels: .*nonsense"):
        ptx_of("KERNEL(1, 1, 1) void k(__global float *x) { nonsense(x); }", "sm_62")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_network_is_computed_through_the_driver(precision: str, tmp_path: Path) -> None:
    """float16 computes in half here, which no OpenCL device on this machine may do."""
    graph, compiled = compiled_text(NETWORK, precision)
    with on_fake_cuda(compiled, tmp_path) as (runner, driver):
        feeds = normal(compiled)
        first = runner.run(feeds)
        assert_close(first, expected(graph, compiled), RTOL[precision])
        again, layers = runner.profile(feeds)
        assert all(first[k].tobytes() == again[k].tobytes() for k in first)
        assert len(layers) == len(compiled.program.steps)
        assert runner._function("device")
        library = ctypes.CDLL(str(driver))
        assert library.fake_memories() == 2
        assert library.fake_balance() == 1  # one context is held, and none is current
        runner.close()
        assert library.fake_memories() == 0
        assert library.fake_balance() == 0


def test_tiles_compute_in_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = iter([Tile(4, 2, 16, 4, 4), Tile(2, 1, 16, 8, 4), Tile(4, 1, 32, 2)])
    monkeypatch.setattr(choose, "tile", lambda *_: next(tiles))
    text = """(float[1,20,7,6] x) => (float[1,28,7,6] a, float[1,28,7,6] b, float[1,28,7,6] c)
        <float[28,20,3,3] w0, float[28,20,3,3] w1, float[28,20,3,3] w2>
        { a = Conv <pads = [1,1,1,1]> (x, w0)  b = Conv <pads = [1,1,1,1]> (x, w1)
          c = Conv <pads = [1,1,1,1]> (x, w2) }"""
    graph, compiled = compiled_text(text, "float16")
    with on_fake_cuda(compiled, tmp_path) as (runner, _):
        assert_close(runner.run(normal(compiled)), expected(graph, compiled), 1e-2)


@dataclass(frozen=True)
class Small:
    """A network of one operator, its driver, and its bundle over this driver."""

    compiled: GpuCompiled
    driver: Path
    folder: Path


@pytest.fixture(scope="module", name="small")
def small_over_its_driver(tmp_path_factory: pytest.TempPathFactory) -> Small:
    graph = graph_from("(float[1,4,5,5] x) => (float[1,4,5,5] y) { y = Relu (x) }")
    compiled = replace(compile_for_gpu(graph, TX2), driver="cuda")
    folder = tmp_path_factory.mktemp("small")
    driver = fake_cuda(compiled, folder)
    flags = (f'-DSMALL_CUDA_LIBRARIES="{driver}"',)
    return Small(compiled, driver, bundle(compiled, folder / "bundle", flags=flags))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FAKE_CUDA_NO_DRIVER", "1", "CUDA does not start: an error \\(CUDA error 3\\)"),
        ("FAKE_CUDA_NO_DEVICE", "1", "CUDA finds no device on this machine"),
        (
            "FAKE_CUDA_MEMORY",
            "10",
            "the model needs [0-9]+ bytes of the GPU's memory: out of memory",
        ),
        (
            "FAKE_CUDA_REFUSES",
            "1",
            "does not build the kernels: ptxas fatal   : not for this processor$",
        ),
    ],
)
def test_what_the_driver_refuses_is_told(
    variable: str, value: str, told: str, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(small.folder) as runner:
        x = np.full((1, 4, 5, 5), -1, np.float32)
        assert not runner.run({"x": x})["y"].any()
    monkeypatch.setenv(variable, value)
    with pytest.raises(RunError, match=told), opened(small.folder):
        pass
    counts = ctypes.CDLL(str(small.driver))
    assert (counts.fake_memories(), counts.fake_balance()) == (0, 0)


def test_without_cuda_it_says_so(small: Small, tmp_path: Path) -> None:
    flags = ('-DSMALL_CUDA_LIBRARIES="libcuda_nowhere.so.1"',)
    folder = bundle(small.compiled, tmp_path / "bundle", flags=flags)
    with pytest.raises(RunError, match=r"libcuda_nowhere\.so\.1 cannot be opened"), opened(folder):
        pass
