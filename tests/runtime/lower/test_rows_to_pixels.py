"""Products of many rows: as ONNX Runtime in float, as the quantizer's reference in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import nodes_of
from graphopt.passes.quantize import integer
from graphopt.runtime.kernels.channels_last import BlockPixels, UnblockPixels
from graphopt.runtime.kernels.conv import DirectConv
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.kernels.rows_product import RowsProduct
from graphopt.runtime.kernels.rows_softmax import RowsSoftmax
from graphopt.runtime.lower.rows import rows_to_pixels
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter
from tests.runtime.lower.interpreter import lowered as lower
from tests.runtime.lower.test_lowered_networks import _equal
from tests.runtime.lower.test_quantized import Network, drawn, kernels, lowered
from tests.runtime.lower.test_vectors import X, Y, Z, dense

EVERY = pytest.mark.parametrize("machine", MACHINES)

PERCEPTRON = """(float[{s},24] x) => (float[{s},{o}] y) <float[24,52] v, float[52] b, float[52,{o}] w>
    {{ h = MatMul (x, v)  a = Add (b, h)  g = Gelu (a)  y = MatMul (g, w) }}"""


@EVERY
@pytest.mark.parametrize("shape", ["1,7", "1,3,5", "1,2,3,4", "1,1,19"])
def test_two_layers_and_what_is_between(shape: str, machine: str, tmp_path: Path) -> None:
    """One way to pixels, one back; the bias and the activation end the first product's kernel."""
    text = PERCEPTRON.format(s=shape, o=33)
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) == 2
    assert (kernels(program, BlockPixels), kernels(program, UnblockPixels)) == (1, 1)
    assert not kernels(program, Pointwise)
    assert all(s.ranged for s in program.steps)


@EVERY
def test_rows_that_others_read_too(machine: str, tmp_path: Path) -> None:
    """Three products of the same rows, which are turned once; a sum with rows, an output in the middle."""
    text = """(float[1,9,20] x) => (float[1,9,20] y, float[1,9,20] p) <float[20,20] a, float[20,20] b, float[20,20] c, float[9,20] e>
        { p = MatMul (x, a)  q = MatMul (x, b)  r = MatMul (x, c)
          s = Sigmoid (q)  t = Mul (s, r)  u = Add (t, x)  v = Add (p, e)  z = Mul (v, p)  y = Add (u, z) }"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) == 3
    assert kernels(program, BlockPixels) == 1


@EVERY
@pytest.mark.parametrize("bias", ["float[18] b", "float[1,18] b", "float[6,18] b", "float[6,1] b"])
def test_gemm(bias: str, machine: str, tmp_path: Path) -> None:
    """What is added to every row in the same way is a bias; anything else leaves the product to TVM."""
    text = f"""(float[1,6,10] x) => (float[6,18] y) <float[18,10] w, {bias}>
        {{ f = Flatten <axis = 2> (x)  y = Gemm <transB = 1> (f, w, b) }}"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, DirectConv) == (0 if "[6," in bias else 1)


@pytest.mark.parametrize("attrs", ["transA = 1", "alpha = 2.0", "beta = 0.5"])
def test_other_gemms_stay(attrs: str, tmp_path: Path) -> None:
    x = "10,6" if "transA" in attrs else "6,10"
    text = f"(float[1,{x}] x) => (float[6,18] y) <float[10,18] w, float[18] b> {{ f = Flatten <axis = 2> (x)  y = Gemm <{attrs}> (f, w, b) }}"
    assert not kernels(_equal(graph_from(text), "avx2", tmp_path), DirectConv)


@EVERY
def test_attention(machine: str, tmp_path: Path) -> None:
    """Products of what is computed, a matrix for every head, of sizes no vector fits into."""
    text = """(float[1,3,19,17] q, float[1,3,19,17] k, float[1,3,19,21] v) => (float[1,3,19,21] y)
        { t = Transpose <perm = [0,1,3,2]> (k)  s = MatMul (q, t)  p = Softmax <axis = 3> (s)  y = MatMul (p, v) }"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert kernels(program, RowsProduct) == 2
    assert kernels(program, RowsSoftmax) == 1


@pytest.mark.parametrize(("attrs", "opset"), [("axis = 2", 20), ("axis = -1", 12), ("", 20)])
def test_which_softmax(attrs: str, opset: int, tmp_path: Path) -> None:
    """The last axis, which is meant where none is named."""
    text = f"(float[1,9,20,18] x) => (float[1,9,20,18] y) {{ r = Relu (x)  y = Softmax <{attrs}> (r) }}".replace(
        " <>", ""
    )
    program = _equal(graph_from(text, opset=opset), "avx2", tmp_path)
    assert kernels(program, RowsSoftmax) == (0 if "2" in attrs else 1)


@pytest.mark.parametrize(
    ("a", "b", "y", "count"),
    [
        ("4,9,20", "20,18", "4,9,18", 1),
        ("9,20", "4,20,18", "4,9,18", 1),
        ("2,1,9,20", "1,3,20,18", "2,3,9,18", 0),  # neither has all matrices
        ("9,20", "20,3", "9,3", 0),  # no vector of columns
        ("20", "20,18", "18", 0),
    ],
)
def test_which_products_of_computed_matrices(
    a: str, b: str, y: str, count: int, tmp_path: Path
) -> None:
    text = f"(float[{a}] p, float[{b}] q) => (float[{y}] y) {{ r = Relu (p)  s = Relu (q)  y = MatMul (r, s) }}"
    assert kernels(_equal(graph_from(text), "avx2", tmp_path), RowsProduct) == count


@EVERY
def test_a_network_with_its_channels_last(machine: str, tmp_path: Path) -> None:
    """What exporters of TensorFlow leave at both ends."""
    text = """(float[1,6,7,5] x) => (float[1,6,7,21] y) <float[21,5,3,3] w>
        { t = Transpose <perm = [0,3,1,2]> (x)  c = Conv <pads = [1,1,1,1]> (t, w)  r = Relu (c)
          y = Transpose <perm = [0,2,3,1]> (r) }"""
    program = _equal(graph_from(text), machine, tmp_path)
    assert (kernels(program, BlockPixels), kernels(program, UnblockPixels)) == (1, 1)
    assert all(s.ranged for s in program.steps)


@EVERY
@pytest.mark.parametrize(("turned", "bias"), [(True, True), (False, True), (False, False)])
def test_integers(turned: bool, bias: bool, machine: str, tmp_path: Path) -> None:
    """Two layers of seven rows, bytes between them, to the last bit."""
    net = Network()
    name = net.input(1, 7, 24)
    rows = net.node("Flatten", name, axis=2)
    first, w, b = dense(net, net.pair(rows, X), X, (24, 40), turned=turned, bias=bias)
    hidden = net.pair(net.node("Relu", first), Z)
    second, v, c = dense(net, hidden, Z, (40, 18), turned=turned, bias=bias)
    out = net.pair(second, Y)
    feeds = {name: drawn(X, 1, 7, 24)}
    inner = integer.matmul(integer.on_grid(feeds[name][0], X), w, Z, b)
    inner = integer.Integers(np.maximum(inner.values, int(Z.zero)), Z)
    right = integer.matmul(inner, v, Y, c)
    program = lowered(net.save(out, (7, 18), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())
    assert kernels(program, IntegerConv) == 2
    assert kernels(program, BlockPixels) == 1


def test_names_stay() -> None:
    graph = graph_from(PERCEPTRON.format(s="7", o=33))
    names = [n.name for n in nodes_of(graph, "MatMul")]
    rows_to_pixels(graph)
    assert [n.name for n in nodes_of(graph, "Conv")] == names
    assert not list(nodes_of(graph, "MatMul"))


def test_no_rows_at_all_are_refused() -> None:
    text = """(float[1,4,20] x, float[1,20,18] b) => (float[1,0,18] y) <int64[1] f = {2}, int64[1] a = {1}>
        { r = Slice (x, f, f, a)  y = MatMul (r, b) }"""
    with pytest.raises(UnsupportedError, match="has no elements"):
        lower(graph_from(text), "avx2")
