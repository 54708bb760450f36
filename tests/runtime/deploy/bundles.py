"""Networks and their bundles, made once for a test run and shared by its processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

import graphopt
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.runtime.compile import Compiled, compile_graph
from graphopt.runtime.deploy.bundle import drawn_inputs, make_bundle
from graphopt.runtime.run import Feeds, Outputs, open_graph
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need

# Transformed weights (Winograd), two inputs and three outputs, odd names, types besides float32, a
# function of TVM's, an output that is also read inside.
SMALL = """(float[1,8,24,20] x, int64[2] rows) => (float[1,16,24,20] b, int64[1,24,20] most, float[2,3] g)
    <float[16,8,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[5,3] table>
    { a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)
      b = Conv <pads = [1,1,1,1]> (r, w2, b2)
      most = ArgMax <axis = 1, keepdims = 0> (b)
      g = Gather <axis = 0> (table, rows) }"""
ODD_NAMES = {"x": 'in "put"=1', "most": "arg=max/ü"}

ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet20": ("resnet20", {"input_size": 32}),
    "mobilenetv3": ("mobilenetv3-large", {"input_size": 64}),
    "yolov3-tiny": ("yolov3-tiny", {"input_size": 96}),
    "yolov3-tiny-decoded": ("yolov3-tiny", {"input_size": 64, "decode": True}),
}


@dataclass(frozen=True)
class Made:
    """A bundle, and what ONNX Runtime makes of standard normal inputs."""

    folder: Path
    feeds: Feeds
    expected: Outputs


Bundles = Callable[..., Made]


def small(*, scale: float = 1.0) -> Graph:
    """A small network with a bit of everything; `scale` multiplies one weight."""
    graph = graph_from(SMALL)
    tensors = graph.tensors()
    for name, odd in ODD_NAMES.items():
        tensors[name].name = odd
    values = tensors["w2"].values.copy()
    values[3, 2, 1, 1] *= scale
    tensors["w2"].values = values
    return graph


def network(name: str, base: Path) -> Graph:
    """A network by name, optimized as `graphopt compile` does."""
    if name == "small":
        return small()
    path = base / f"{name}.onnx"
    if not path.exists():
        from graphopt.frontends.normal_form import normalize
        from graphopt.zoo import export

        which, how = ZOO[name]
        graph = normalize(export(which, **how))
        graphopt.save(Pipeline(graphopt.default_passes()).run(graph).graph, path)
    return graphopt.load(path)


def normal_inputs(compiled: Compiled) -> Feeds:
    """Standard normal values; 0 and 1 in turn where integers are wanted."""
    rng = np.random.default_rng(0)
    return {
        p.name: rng.standard_normal(p.shape).astype(p.dtype)
        if p.dtype.startswith("float")
        else (np.arange(np.prod(p.shape)) % 2).astype(p.dtype).reshape(p.shape)
        for p in compiled.program.inputs
    }


def made(name: str, board: str, abi: str | None, base: Path) -> Made:
    """A bundle in `base`, made if it is not there."""
    folder = base / f"{name}.{board}.{abi}"
    with _alone(base / "lock"):
        graph = network(name, base)
        runner = open_graph(graph)
        compiled = compile_graph(graph, target(board))
        feeds = normal_inputs(compiled)
        if not folder.exists():
            make_bundle(
                compiled,
                folder,
                name=name,
                tools=toolchain_for(target(board), abi),
                reference=runner.run(drawn_inputs(compiled.program)),
            )
    return Made(folder, feeds, runner.run(feeds))


@pytest.fixture(scope="session", name="bundles")
def all_bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Bundles by network, board and ABI; nobody may write into them."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    shared = base / "bundles"
    shared.mkdir(exist_ok=True)
    known: dict[tuple[str, str, str | None], Made] = {}

    def of(name: str, board: str = "host", abi: str | None = None) -> Made:
        need(*(("cc",) if board == "host" else ("zig",)))
        key = (name, board, abi)
        known[key] = known.get(key) or made(*key, shared)
        return known[key]

    return of


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def assert_equal(found: Outputs, expected: Outputs, *, rtol: float = 1e-4) -> None:
    """Every output is there and right, relative to its element and to its largest."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        peak = float(np.abs(values).max(initial=0))
        np.testing.assert_allclose(found[name], values, rtol=rtol, atol=rtol * peak, err_msg=name)
