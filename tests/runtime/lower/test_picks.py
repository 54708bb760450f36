"""Channels and pixels that are picked out of images, or padded, without leaving the blocked layout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphopt.frontends.normal_form import normalize
from graphopt.passes.quantize import integer
from graphopt.runtime.kernels.blocking import Block, Unblock
from graphopt.runtime.kernels.movement import CopyChannels, Enlarge
from graphopt.runtime.kernels.pick import PickChannels
from graphopt.runtime.kernels.pool import WindowPool
from graphopt.runtime.lower.program import Program
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter, lowered
from tests.runtime.lower.test_lowered_networks import _equal
from tests.runtime.lower.test_quantized import Network, drawn, grid, kernels
from tests.runtime.lower.test_quantized import lowered as lowered_file

EVERY = pytest.mark.parametrize("machine", MACHINES)

# name -> (graph, kernels that pick channels)
CASES = {
    # ShuffleNetV2's block: joined, shuffled by two, split.
    "shuffled_and_split": (
        """(float[1,16,6,7] x) => (float[1,8,6,7] y) <float[10,16,1,1] u, float[10,16,1,1] v, float[10,1,3,3] d, float[8,10,3,3] w,
        int64[5] s = {1,2,10,6,7}, int64[4] t = {1,20,6,7}, int64[2] h = {10,10}>
        { a = Conv (x, u)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  r = Reshape (c, s)
          p = Transpose <perm = [0,2,1,3,4]> (r)  q = Reshape (p, t)  e, f = Split <axis = 1> (q, h)
          g = Conv <group = 10, pads = [1,1,1,1]> (e, d)  i = Relu (g)  k = Add (i, f)  y = Conv <pads = [1,1,1,1]> (k, w) }""",
        2,
    ),
    # FastestDet's: even and odd channels, by a Gather of halves.
    "even_and_odd": (
        """(float[1,16,6,6] x) => (float[1,8,6,6] y) <float[20,16,1,1] u, float[8,10,3,3] w,
        int64[3] s = {10,2,36}, int64[5] t = {2,1,10,6,6}, int64 z = {0}, int64 o = {1}>
        { a = Conv (x, u)  r = Reshape (a, s)  p = Transpose <perm = [1,0,2]> (r)  q = Reshape (p, t)
          e = Gather <axis = 0> (q, z)  f = Gather <axis = 0> (q, o)  k = Add (e, f)  y = Conv <pads = [1,1,1,1]> (k, w) }""",
        2,
    ),
    "every_second_channel": (
        """(float[1,16,6,6] x) => (float[1,8,6,6] y) <float[21,16,1,1] u, float[8,10,3,3] w, int64[1] a = {1}, int64[1] b = {100}, int64[1] n = {1}, int64[1] s = {2}>
        { c = Conv (x, u)  e = Slice (c, a, b, n, s)  y = Conv <pads = [1,1,1,1]> (e, w) }""",
        1,
    ),
    "channels_by_number": (
        """(float[1,16,6,6] x) => (float[1,5,6,6] y) <float[21,16,1,1] u, int64[5] i = {20, -2, 3, 3, 0}>
        { c = Conv (x, u)  e = Gather <axis = 1> (c, i)  y = Neg (e) }""",
        1,
    ),
    "a_split_inside_a_block": (
        """(float[1,16,6,6] x) => (float[1,9,6,6] y, float[1,12,6,6] z) <float[21,16,1,1] u, int64[2] s = {9, 12}>
        { c = Conv (x, u)  d, e = Split <axis = 1> (c, s)  y = Relu (d)  z = Relu (e) }""",
        1,  # the first piece begins with a block
    ),
    "turned_there_and_back": (
        """(float[1,16,6,6] x) => (float[1,16,6,6] y) <float[16,16,1,1] u, int64[5] s = {1,4,4,6,6}, int64[4] t = {1,16,6,6}>
        { c = Conv (x, u)  r = Reshape (c, s)  p = Transpose <perm = [0,2,1,3,4]> (r)  v = Transpose <perm = [0,2,1,3,4]> (p)
          q = Reshape (v, t)  y = Relu (q) }""",
        0,
    ),
}


def layouts(program: Program) -> tuple[int, int]:
    """How often images are turned into rows and back, beside inputs and outputs."""
    return (
        kernels(program, Block) - len(program.inputs),
        kernels(program, Unblock) - len(program.outputs),
    )


@EVERY
@pytest.mark.parametrize("case", CASES)
def test_channels(case: str, machine: str, tmp_path: Path) -> None:
    text, count = CASES[case]
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, PickChannels) == count
    assert layouts(program) == (0, 0)
    assert all(s.ranged for s in program.steps)


# ResNet's shortcut without weights (option A): every second pixel, and channels of zeros around.
SHORTCUT = """(float[1,8,9,9] x) => (float[1,{to},5,5] y) <float[{of},8,3,3] u, float[{to},{of},3,3] w, int64[2] a = {{0,0}}, int64[2] b = {{100,100}}, int64[2] n = {{2,3}}, int64[2] s = {{2,2}}, int64[8] p = {{0,{pad},0,0,0,{pad},0,0}}>
    {{ c = Conv <pads = [1,1,1,1]> (x, u)  r = Relu (c)  e = Slice (r, a, b, n, s)  z = Pad (e, p)
       d = Conv <pads = [1,1,1,1], strides = [2,2]> (r, w)  t = Add (d, z)  y = Relu (t) }}"""


@EVERY
@pytest.mark.parametrize(("of", "to"), [(8, 16), (16, 48), (6, 12)])
def test_shortcuts_without_weights(of: int, to: int, machine: str, tmp_path: Path) -> None:
    """The sum is computed where the convolution's results are; the image lies in the padded one if it can."""
    text = SHORTCUT.format(of=of, to=to, pad=(to - of) // 2)
    program = _equal(graph_from(text), machine, tmp_path)
    assert layouts(program) == (0, 0)
    assert kernels(program, WindowPool) == 1
    assert all(s.ranged for s in program.steps)
    lanes = MACHINES[machine].lanes
    is_whole = (to - of) // 2 % lanes == 0 and of % lanes == 0
    assert kernels(program, CopyChannels) == (0 if is_whole else 1)


@EVERY
def test_an_image_that_is_padded_twice(machine: str, tmp_path: Path) -> None:
    """It can lie in one of the two, at the most."""
    text = """(float[1,8,6,6] x) => (float[1,48,6,6] y, float[1,48,6,6] z) <float[16,8,1,1] u, int64[8] p = {0,16,0,0,0,16,0,0}, int64[8] q = {0,32,0,0,0,0,0,0}>
        { c = Conv (x, u)  a = Pad (c, p)  b = Pad (c, q)  y = Relu (a)  z = Neg (b) }"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert all(s.ranged for s in program.steps)
    assert kernels(program, Enlarge) == 1  # a copy of whole blocks


@pytest.mark.parametrize(
    "middle",
    [
        "p = Transpose <perm = [0,1,3,2]> (c)",  # pixels change places
        "p = Slice (c, one, far, two_three, two)",  # not from the first pixel on
        "p = Pad (c, rows)",
        "p = Pad (c, channels, value)",
        'p = Pad <mode = "edge"> (c, channels)',
        "p = Pad (c, cut)",
    ],
)
def test_what_is_no_whole_channel_is_computed_as_before(middle: str, tmp_path: Path) -> None:
    shape = {"p = Pad (c, rows)": "8,7,6", "p = Slice": "8,3,3"}
    found = next((v for k, v in shape.items() if middle.startswith(k)), "8,6,6")
    found = "10,6,6" if "channels" in middle else "6,6,6" if "cut" in middle else found
    text = f"""(float[1,8,6,6] x) => (float[1,{found}] y) <float[8,8,1,1] u, int64[2] one = {{1,1}}, int64[2] far = {{100,100}},
        int64[2] two_three = {{2,3}}, int64[2] two = {{2,2}}, int64[8] rows = {{0,0,1,0,0,0,0,0}}, float value = {{1.0}},
        int64[8] channels = {{0,1,0,0,0,1,0,0}}, int64[8] cut = {{0,-1,0,0,0,-1,0,0}}>
        {{ c = Conv (x, u)  {middle}  y = Relu (p) }}"""
    program = _equal(graph_from(text), "avx2", tmp_path)
    assert not kernels(program, PickChannels)
    assert any(not s.ranged for s in program.steps)


def test_channels_that_run_time_tells_are_not_picked() -> None:
    text = """(float[1,8,6,6] x, int64[3] i) => (float[1,3,6,6] y) <float[8,8,1,1] u>
        { c = Conv (x, u)  y = Gather <axis = 1> (c, i) }"""
    program = lowered(graph_from(text))
    assert not kernels(program, PickChannels)


# --- drawn chains -------------------------------------------------------------------------------------


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """An image, up to five moves of any kind that end in an image of its size, and a sum."""
    channels = draw(st.sampled_from([6, 8, 12, 16, 24]))
    size = (4, 5)
    shape: tuple[int, ...] = (1, channels, *size)
    nodes, constants, tensor = [], [], "c"

    def constant(values: list[int], name: str) -> str:
        constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    for i in range(draw(st.integers(1, 4))):
        out, kind = f"m{i}", draw(st.sampled_from(["shuffle", "slice", "gather", "reverse"]))
        count = shape[1]
        if kind == "shuffle":
            groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if count % g == 0]))
            inner = constant([1, groups, count // groups, *size], f"i{i}")
            perm = draw(st.sampled_from([[0, 2, 1, 3, 4], [0, 1, 2, 3, 4], [0, 2, 1, 4, 3]]))
            back = constant([1, count, *size], f"b{i}")
            nodes += [
                helper.make_node("Reshape", [tensor, inner], [f"r{i}"]),
                helper.make_node("Transpose", [f"r{i}"], [f"t{i}"], perm=perm),
                helper.make_node("Reshape", [f"t{i}", back], [out]),
            ]
        elif kind == "slice":
            first, step = draw(st.integers(0, count - 1)), draw(st.integers(1, 3))
            parts = [[first], [count], [1], [step]]
            named = [constant(p, f"{'sexp'[k]}{i}") for k, p in enumerate(parts)]
            nodes.append(helper.make_node("Slice", [tensor, *named], [out]))
            shape = (1, len(range(first, count, step)), *size)
        elif kind == "gather":
            picks = draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=20))
            nodes.append(
                helper.make_node("Gather", [tensor, constant(picks, f"g{i}")], [out], axis=1)
            )
            shape = (1, len(picks), *size)
        else:
            named = [constant([v], f"{'sexp'[k]}{i}") for k, v in enumerate((0, 99, 1, 2))]
            nodes.append(helper.make_node("Slice", [tensor, *named], [out]))
            shape = (1, -(-count // 2), *size)
        tensor = out
    weight = np.random.default_rng(0).standard_normal((channels, 3, 1, 1)).astype(np.float32)
    constants.append(numpy_helper.from_array(weight, "w"))
    nodes.insert(0, helper.make_node("Conv", ["x", "w"], ["c"]))
    nodes.append(helper.make_node("Relu", [tensor], ["y"]))

    def port(name: str, dims: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

    graph = helper.make_graph(nodes, "g", [port("x", (1, 3, *size))], [port("y", shape)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(chains(), st.sampled_from(list(MACHINES)))
def test_drawn_chains(model: onnx.ModelProto, machine: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _equal(normalize(model), machine, Path(folder))


# --- integers -------------------------------------------------------------------------------------

X, Y = grid(0.04, -12), grid(0.05, 7)


@EVERY
def test_bytes_are_shuffled_as_bytes(machine: str, tmp_path: Path) -> None:
    """Pairs of the same grid between all the steps, as the quantizer puts them: one copy is left."""
    net = Network()
    name = net.input(1, 24, 4, 5)
    inner, back = (net.constant(np.array(s, np.int64)) for s in ((1, 2, 12, 4, 5), (1, 24, 4, 5)))
    image = net.pair(name, X)
    five = net.pair(net.node("Reshape", image, inner), X)
    turned = net.pair(net.node("Transpose", five, perm=[0, 2, 1, 3, 4]), X)
    shuffled = net.pair(net.node("Reshape", turned, back), X)
    out = net.pair(net.node("Relu", shuffled), Y)
    feeds = {name: drawn(X, 1, 24, 4, 5)}
    given_ = integer.on_grid(feeds[name], X)
    order = np.arange(24).reshape(2, 12).T.reshape(-1)
    moved = integer.requantized(integer.Integers(given_.values[:, order], X), Y)
    right = integer.Integers(np.maximum(moved.values, int(Y.zero)), Y)
    program = lowered_file(net.save(out, (1, 24, 4, 5), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())
    (pick,) = (s.kernel for s in program.steps if isinstance(s.kernel, PickChannels))
    assert pick.machine.dtype == "int8"
    assert layouts(program) == (0, 0)


@EVERY
def test_another_grid_in_between_is_kept(machine: str, tmp_path: Path) -> None:
    """A coarser one loses what it loses."""
    net, coarse = Network(), grid(0.3, 0)
    name = net.input(1, 24, 4, 5)
    inner, back = (net.constant(np.array(s, np.int64)) for s in ((1, 2, 12, 4, 5), (1, 24, 4, 5)))
    five = net.pair(net.node("Reshape", net.pair(name, X), inner), coarse)
    turned = net.node("Transpose", five, perm=[0, 2, 1, 3, 4])
    out = net.pair(net.node("Reshape", turned, back), X)
    feeds = {name: drawn(X, 1, 24, 4, 5)}
    order = np.arange(24).reshape(2, 12).T.reshape(-1)
    lost = coarse.dequantize(coarse.quantize(integer.on_grid(feeds[name], X).real()))
    right = integer.on_grid(lost[:, order], X).real()
    program = lowered_file(net.save(out, (1, 24, 4, 5), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    assert np.abs(found - right).max() <= float(X.scale) * 1.01
    assert np.abs(found - right).mean() < 0.02 * float(X.scale)
