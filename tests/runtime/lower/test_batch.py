"""Batches: every image is computed as one alone is, by the same kernels; images that meet are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.graph import Graph
from graphopt.runtime.kernels.conv import DirectConv
from graphopt.runtime.kernels.winograd import WinogradOutput
from graphopt.runtime.lower.arena import plan
from graphopt.runtime.lower.batch import of_one
from graphopt.runtime.lower.sizes import fix_sizes
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter, lowered
from tests.runtime.lower.test_lowered_networks import NETWORKS, _equal
from tests.runtime.lower.test_quantized import kernels

EVERY = pytest.mark.parametrize("machine", MACHINES)

NET = """(float[{n},3,9,7] x) => (float[{n},5] y, float[{n},4,9,7] z) <float[10,3,3,3] w, float[10] b, float[4,10,3,3] v, float[5,40] u, float[5] c,
    int64[2] f = {{{first},-1}}, float[4] k = {{1., 1., 2., 2.}}, int64[4] p = {{0,0,1,1}}>
    {{ a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)  d = Conv <pads = [1,1,1,1]> (r, v)  z = Sigmoid (d)
       m = AveragePool <kernel_shape = [3,3], strides = [3,3], pads = [0,0,0,0]> (d)  e = MaxPool <kernel_shape = [2,2]> (d)
       g = GlobalAveragePool (r)  h = Concat <axis = 1> (g, g, g, g)  t = Reshape (h, f)  y = Gemm <transB = 1> (t, u, c) }}"""


def network(n: int, first: int | None = None) -> Graph:
    return graph_from(NET.format(n=n, first=n if first is None else first))


@EVERY
@pytest.mark.parametrize("count", [2, 3])
def test_a_batch(count: int, machine: str, tmp_path: Path) -> None:
    """Against ONNX Runtime; images are of 189 values, so the second begins nowhere in particular."""
    program = _equal(network(count), machine, tmp_path)
    one = lowered(network(1), machine)
    assert len(program.steps) == count * len(one.steps)
    assert [s.kernel for s in program.steps] == [s.kernel for s in one.steps] * count
    assert len(program.constants) == len(one.constants)
    assert sum(s.macs for s in program.steps) == count * sum(s.macs for s in one.steps)


def test_every_image_is_computed_as_one_alone(tmp_path: Path) -> None:
    """To the last bit."""
    x = np.random.default_rng(0).standard_normal((3, 3, 9, 7)).astype(np.float32)
    together = Interpreter(lowered(network(3)), tmp_path).run({"x": x})
    alone = Interpreter(lowered(network(1)), tmp_path)
    for i in range(3):
        for name, values in alone.run({"x": x[i : i + 1]}).items():
            np.testing.assert_array_equal(together[name][i : i + 1], values)


def test_a_batch_takes_the_memory_of_one_image() -> None:
    """But for inputs and outputs, and steps' weights are those of one."""
    four, one = (lowered(network(n)) for n in (4, 1))
    ports = sum(p.bytes for p in [*one.inputs, *one.outputs])
    assert plan(four).size <= plan(one).size + 4 * ports + 4 * 64
    assert len(four.prepare) == len(one.prepare)


@EVERY
@pytest.mark.parametrize("case", ["residual", "squeeze_and_excite", "decoded_head", "classifier"])
def test_networks(case: str, machine: str, tmp_path: Path) -> None:
    text = NETWORKS[case][0].replace("float[N,", "float[1,")
    for shape in ("8,9,10", "8,6,7", "3,8,8", "10", "8,4,4", "48,5"):
        text = text.replace(f"float[1,{shape}] x", f"float[2,{shape}] x")
        text = text.replace(f"float[1,{shape}] y", f"float[2,{shape}] y")
    text = text.replace("{1, 3, 5, 4, 4}", "{2, 3, 5, 4, 4}").replace("{1, 48, 5}", "{2, 48, 5}")
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) + kernels(program, WinogradOutput) >= 2
    assert not any(not s.ranged and "Conv" in s.what for s in program.steps)


@pytest.mark.parametrize("told", ["-1", "0"])
def test_shapes_that_leave_the_batch_open(told: str, tmp_path: Path) -> None:
    text = NET.format(n=2, first=2).replace("{2,-1}", "{0,40}" if told == "0" else "{-1,40}")
    assert of_one(graph_from(text)) is not None
    _equal(graph_from(text), "avx2", tmp_path)


MEETING = {
    "a sum over the batch": "m = ReduceMean <keepdims = 1> (c, batch)  y = Sub (c, m)",
    "a softmax over it": "y = Softmax <axis = 0> (c)",
    "images in another order": "y = Gather <axis = 0> (c, turned)",
    "images joined": "s = Slice (c, zero, one, zero)  t = Slice (c, one, two, zero)  y = Concat <axis = 0> (t, s)",
    "something of its own for each": "y = Add (c, each)",
    "an axis that moves": "t = Transpose <perm = [1,0,2,3]> (c)  y = Reshape (t, shape)",
    "a shape that mixes": "t = Reshape (c, mixed)  r = Relu (t)  y = Reshape (r, shape)",
}


@pytest.mark.parametrize("case", MEETING)
def test_images_that_meet_are_computed_together(case: str, tmp_path: Path) -> None:
    text = f"""(float[2,4,5,6] x) => (float[2,4,5,6] y) <float[4,4,1,1] w, float[2,4,5,6] each, int64[2] turned = {{1,0}}, int64[1] batch = {{0}},
        int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[4] shape = {{2,4,5,6}}, int64[4] mixed = {{4,2,5,6}}>
        {{ c = Conv (x, w)  {MEETING[case]} }}"""
    assert of_one(graph_from(text)) is None
    _equal(graph_from(text), "avx2", tmp_path)


def test_one_image_and_inputs_that_differ_are_as_ever() -> None:
    assert of_one(network(1)) is None
    text = """(float[2,4,5,6] x, float[3,4,5,6] z) => (float[2,4,5,6] y, float[3,4,5,6] a) { y = Relu (x)  a = Relu (z) }"""
    assert of_one(graph_from(text)) is None


STEPS = [
    "Relu ({0})",
    "Conv <pads = [1,1,1,1]> ({0}, w)",
    "Add ({0}, x)",
    "Mul ({0}, one)",
    "Add ({0}, each)",
    "Softmax <axis = 1> ({0})",
    "Softmax <axis = 0> ({0})",
    "MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> ({0})",
    "Transpose <perm = [0,1,3,2]> ({0})",
    "Reshape ({0}, same)",
    "Gather <axis = 1> ({0}, picks)",
    "Gather <axis = 0> ({0}, turned)",
]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5), st.sampled_from(list(MACHINES)))
def test_drawn(tmp_path_factory: pytest.TempPathFactory, steps: list[str], machine: str) -> None:
    lines = [f"t{i + 1} = {s.format(f't{i}')}" for i, s in enumerate(steps)]
    text = f"""(float[2,4,5,5] x) => (float[2,4,5,5] y) <float[4,4,3,3] w, float[4,1,1] one, float[2,4,5,5] each, int64[2] turned = {{1,0}},
        int64[4] same = {{2,4,5,5}}, int64[4] picks = {{2,0,1,3}}> {{ t0 = Neg (x)  {"  ".join(lines)}  y = Identity (t{len(steps)}) }}"""
    graph = graph_from(text)
    fix_sizes(graph)
    _equal(graph, machine, tmp_path_factory.mktemp("drawn"))
