"""Transposed convolutions by phases: as ONNX Runtime in float, as the quantizer's reference in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.passes.quantize import integer
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes
from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.lower.program import Program
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter, lowered
from tests.runtime.lower.test_lowered_networks import _equal
from tests.runtime.lower.test_quantized import (
    Network,
    Values,
    _equals_onnxruntime,
    drawn,
    grid,
    kernels,
)
from tests.runtime.lower.test_quantized import lowered as lowered_file

EVERY = pytest.mark.parametrize("machine", MACHINES)
HEAD = "(float[1,20,5,6] x) => (float[1,{out}] y) <float[20,{w}] w, float[12] b, float[1,{out}] z>"

# attributes, weight without its first axis, result
CASES = {
    "doubled": ("strides = [2,2]", "12,2,2", "12,10,12"),
    "overlapping": ("strides = [2,2], pads = [1,1,1,1]", "12,4,4", "12,10,12"),
    "uneven": ("strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]", "12,3,3", "12,10,12"),
    "of_three": ("strides = [3,2], pads = [1,0,2,1], output_padding = [1,0]", "12,3,5", "12,13,14"),
    "not_strided": ("pads = [1,1,1,1]", "12,3,3", "12,5,6"),
    "cut": ("strides = [2,2], pads = [3,3,3,3]", "12,5,5", "12,7,9"),
}


@EVERY
@pytest.mark.parametrize("case", CASES)
def test_of_one_group(case: str, machine: str, tmp_path: Path) -> None:
    """With a bias, an activation and a sum behind it, all in one kernel for each phase."""
    attrs, weight, out = CASES[case]
    text = f"""{HEAD.format(out=out, w=weight)} {{ r = Relu (z)
        c = ConvTranspose <{attrs}> (x, w, b)  a = LeakyRelu (c)  y = Add (a, z) }}"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert {type(s.kernel) for s in program.steps} >= {DirectConv}
    assert not any(isinstance(s.kernel, Pointwise) or not s.ranged for s in program.steps[:-1])


@EVERY
@pytest.mark.parametrize(("groups", "weight"), [(2, "6,3,3"), (4, "3,2,4")])
def test_of_some_groups(groups: int, weight: str, machine: str, tmp_path: Path) -> None:
    """Computed as one, with zeros where a channel is of another group."""
    text = f"""(float[1,20,5,6] x) => (float[1,12,P,Q] y) <float[20,{weight}] w, float[12] b>
        {{ c = ConvTranspose <strides = [2,2], pads = [1,0,0,1], group = {groups}> (x, w, b)  y = Relu (c) }}"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) == 4
    assert all(s.ranged for s in program.steps)


@EVERY
def test_depthwise(machine: str, tmp_path: Path) -> None:
    text = """(float[1,20,5,6] x, float[1,20,10,12] z) => (float[1,20,10,12] y) <float[20,1,4,4] w, float[20] b, float[20,20,1,1] v>
        { c = ConvTranspose <strides = [2,2], pads = [1,1,1,1], group = 20> (x, w, b)  h = HardSwish (c)
          a = Conv (z, v)  y = Add (h, a) }"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DepthwiseConv) == 4
    assert all(s.ranged for s in program.steps)


@EVERY
@pytest.mark.parametrize(
    ("attrs", "weight", "out"),
    [
        ("strides = [3,3]", "12,2,2", "12,14,17"),  # pixels that no tap meets
        ("strides = [2,3], pads = [0,1,1,0]", "12,1,2", "12,8,16"),
        ("dilations = [2,2]", "12,3,3", "12,9,10"),
        ("dilations = [2,2], strides = [2,1], pads = [2,1,2,1]", "12,3,3", "12,9,8"),
        ("dilations = [3,4], strides = [2,6], pads = [1,2,0,3]", "12,3,3", "12,14,34"),
    ],
)
def test_with_gaps(attrs: str, weight: str, out: str, machine: str, tmp_path: Path) -> None:
    """Taps that stand apart, and results that no tap meets: the bias alone."""
    text = f"""(float[1,20,5,6] x) => (float[1,{out}] y) <float[20,{weight}] w, float[12] b>
        {{ y = ConvTranspose <{attrs}> (x, w, b) }}"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) > 0
    assert all(s.ranged for s in program.steps)


def test_a_size_that_is_named_is_padding(tmp_path: Path) -> None:
    """TVM's importer takes no notice of it; the pass does before anything is lowered."""
    graph = graph_from("""(float[1,20,5,6] x) => (float[1,12,10,12] y) <float[20,12,3,3] w>
        { y = ConvTranspose <strides = [2,2], output_shape = [10,12]> (x, w) }""")
    program = _equal(Pipeline(default_passes()).run(graph).graph, "avx2", tmp_path)
    assert kernels(program, DirectConv) == 4


def macs_of(program: Program) -> int:
    return sum(s.macs for s in program.steps)


def test_phases_share_the_products() -> None:
    text = f"""{HEAD.format(out="12,10,12", w="12,2,2")}
        {{ y = ConvTranspose <strides = [2,2]> (x, w, b) }}"""
    assert macs_of(lowered(graph_from(text))) == 20 * 12 * 4 * 30


# --- integers -------------------------------------------------------------------------------------

X, Y = grid(0.04, -12), grid(0.05, 7)


def stuffed(x: integer.Integers, kernel: int, stride: int, pad: int) -> integer.Integers:
    """The image a plain convolution with the turned kernel makes the same of: zero points between pixels."""
    n, c, h, w = x.values.shape
    values = np.full((n, c, (h - 1) * stride + 1, (w - 1) * stride + 1), int(x.grid.zero))
    values[:, :, ::stride, ::stride] = x.values
    around = kernel - 1 - pad
    widths = ((0, 0), (0, 0), (around, around), (around, around))
    return integer.Integers(np.pad(values, widths, constant_values=int(x.grid.zero)), x.grid)


def transposed(net: Network, tensor: str, x: Grid, shape: tuple[int, ...], **attrs: Any) -> Any:
    """A ConvTranspose with integers for its weight (C, O, u, v); they as those of a plain one, and its bias."""
    rng = np.random.default_rng(5)
    out = shape[1]
    w, b = rng.integers(-127, 128, shape), rng.integers(-3000, 3000, out)
    scale = (rng.random(out) * 0.01 + 0.002).astype(np.float32)
    zeros = np.zeros(out)
    weight = [net.constant(v) for v in (w.astype(np.int8), scale, zeros.astype(np.int8))]
    unit = (np.float32(x.scale) * scale).astype(np.float32)
    bias = [net.constant(v) for v in (b.astype(np.int32), unit, zeros.astype(np.int32))]
    given = [
        net.node("DequantizeLinear", *parts, axis=axis) for parts, axis in ((weight, 1), (bias, 0))
    ]
    plain = np.ascontiguousarray(w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    grid_ = Grid(KINDS["int8"], scale, np.zeros(out, int), 0)
    return net.node("ConvTranspose", tensor, *given, **attrs), integer.Integers(plain, grid_), b


@EVERY
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (4, 2, 1), (3, 2, 1), (5, 3, 2)])
def test_integers_are_those_of_the_reference(
    kernel: int, stride: int, pad: int, kind: str, machine: str, tmp_path: Path
) -> None:
    x = X if kind == "int8" else grid(0.04, 100, "uint8")
    net = Network()
    name = net.input(1, 24, 5, 6)
    attrs = {"strides": [stride] * 2, "pads": [pad] * 4}
    made, w, b = transposed(net, net.pair(name, x), x, (24, 21, kernel, kernel), **attrs)
    out = net.pair(net.node("Relu", made), Y)
    feeds = {name: drawn(x, 1, 24, 5, 6)}
    given = stuffed(integer.on_grid(feeds[name], x), kernel, stride, pad)
    right: Values = np.maximum(integer.conv2d(given, w, Y, b).values, int(Y.zero))
    program = lowered_file(net.save(out, right.shape, tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, integer.Integers(right, Y).real())
    assert kernels(program, IntegerConv) == stride**2


@EVERY
def test_a_sum_of_integers_behind_the_phases(machine: str, tmp_path: Path) -> None:
    """The other image is read where each result stands; a step is off where a sum falls on half of one."""
    net = Network()
    name, other = net.input(1, 24, 5, 6), net.input(1, 21, 10, 12)
    made, _, _ = transposed(net, net.pair(name, X), X, (24, 21, 4, 4), strides=[2, 2], pads=[1] * 4)
    out = net.pair(net.node("Add", made, net.pair(other, Y)), Y)
    feeds = {name: drawn(X, 1, 24, 5, 6), other: drawn(Y, 1, 21, 10, 12, seed=1)}
    _equals_onnxruntime(net, out, (1, 21, 10, 12), feeds, machine, tmp_path, step=float(Y.scale))
