"""What tests of GPU kernels need: an OpenCL device, libraries for this machine, a CUDA driver to fool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

from graphopt.ir.graph import Graph
from graphopt.runtime.deploy.bundle import make_bundle
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.gpu.ptx import clang
from graphopt.runtime.gpu.twin import Device, device_here
from graphopt.runtime.native import NativeRunner
from graphopt.runtime.run import Feeds, Outputs, open_graph
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need

MALI, TX2 = target("kirin990-gpu"), target("tx2-gpu")
_FAKE = Path(__file__).with_name("fake_cuda.c")
# The same instructions for half everywhere: conversions, and arithmetic in float between them.
_PROCESSOR = ["-triple", "x86_64-unknown-linux-gnu", "-target-cpu", "haswell", "-emit-obj", "-O2"]
_PIC = ["-mrelocation-model", "pic", "-pic-level", "2", "-cl-ext=+cl_khr_fp16"]


@cache
def _opencl() -> Device:
    return device_here("opencl")


def need_opencl() -> None:
    """Skips the test without an OpenCL device; fails it where one must be."""
    need("cc")
    if _opencl().name:
        return
    reason = (
        f"no OpenCL device (apt install pocl-opencl-icd ocl-icd-libopencl1): {_opencl().reason}"
    )
    if os.environ.get("GRAPHOPT_REQUIRE_OPENCL"):
        pytest.fail(f"{reason}, and GRAPHOPT_REQUIRE_OPENCL is set")
    pytest.skip(reason)


def normal(compiled: GpuCompiled, seed: int = 0) -> Feeds:
    """Standard normal values; 0 and 1 in turn where integers are wanted."""
    rng = np.random.default_rng(seed)
    return {
        p.name: rng.standard_normal(p.shape).astype(p.dtype)
        if p.dtype.startswith("float")
        else (np.arange(np.prod(p.shape)) % 2).astype(p.dtype).reshape(p.shape)
        for p in compiled.program.inputs
    }


def bundle(compiled: GpuCompiled, folder: Path, *, flags: tuple[str, ...] = ()) -> Path:
    """A bundle for this machine, whose arena is not a number anywhere before a kernel writes to it."""
    tools = toolchain_for(compiled.target, "host")
    make_bundle(compiled, folder, name="small", tools=tools, flags=("-DSMALL_POISON", *flags))
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[NativeRunner]:
    """A bundle's library, closed afterwards."""
    runner = NativeRunner(folder)
    try:
        yield runner
    finally:
        runner.close()


def on_opencl(compiled: GpuCompiled, folder: Path) -> tuple[Outputs, Outputs]:
    """What a network computes by OpenCL, and then once more."""
    need_opencl()
    own = replace(compiled, driver="opencl")
    with opened(bundle(own, folder / "bundle")) as runner:
        feeds = normal(compiled)
        return runner.run(feeds), runner.run(feeds)


def fake_cuda(compiled: GpuCompiled, folder: Path) -> Path:
    """A CUDA driver that computes the network's kernels, compiled for this processor."""
    need("cc", "zig")
    tools = toolchain_for(target("host"))
    kernels = folder / "kernels.o"
    words = [*_PROCESSOR, *_PIC]
    made = clang(compiled.source, words, "compile kernels", defines=("REAL_HALF",))
    kernels.write_bytes(made)
    # Whoever has a driver of CUDA's own interface looks into nothing but its functions.
    driver = tools.compile(_FAKE, folder / "fake_cuda.o", ["-Wno-pedantic"])
    return tools.shared([driver, kernels], folder / "libfake_cuda.so", libraries=("m", "dl"))


@contextmanager
def on_fake_cuda(compiled: GpuCompiled, folder: Path) -> Iterator[tuple[NativeRunner, Path]]:
    """The network's library for CUDA over such a driver, and the driver."""
    driver = fake_cuda(compiled, folder)
    flags = (f'-DSMALL_CUDA_LIBRARIES="{driver}"',)
    with opened(bundle(replace(compiled, driver="cuda"), folder / "bundle", flags=flags)) as runner:
        yield runner, driver


def assert_close(found: Outputs, wanted: Mapping[str, np.ndarray], rtol: float) -> None:  # type: ignore[type-arg]
    """Every output is there and right, relative to its largest value; integers are the same."""
    assert list(found) == list(wanted)
    for name, right in wanted.items():
        assert found[name].shape == right.shape
        assert found[name].dtype == right.dtype
        if right.dtype.kind != "f":
            assert np.array_equal(found[name], right), name
            continue
        peak = float(np.abs(right[np.isfinite(right)]).max(initial=1e-6))
        np.testing.assert_allclose(found[name], right, rtol=rtol, atol=rtol * peak, err_msg=name)


def expected(graph: Graph, compiled: GpuCompiled) -> Outputs:
    """What ONNX Runtime makes of the same inputs."""
    return open_graph(graph).run(normal(compiled))


def compiled_text(
    text: str, precision: str = "float32", board: str = "tx2-gpu"
) -> tuple[Graph, GpuCompiled]:
    """A graph from its text, and what a board's GPU runs of it."""
    graph = graph_from(text)
    return graph, compile_for_gpu(graph, target(board), precision=precision)
