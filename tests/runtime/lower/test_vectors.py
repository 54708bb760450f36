"""Dense layers of integers: what the quantizer's reference says, to the last bit, by integer kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.ir.graph import nodes_of
from graphopt.passes.quantize import integer
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.runtime.kernels.blocking import Block
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.lower.vectors import vectors_to_images
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter
from tests.runtime.lower.test_quantized import Network, drawn, grid, kernels, lowered

X, Y, Z = grid(0.04, -12), grid(0.05, 7), grid(0.11, 3)
EVERY = pytest.mark.parametrize("machine", MACHINES)


def dense(
    net: Network, tensor: str, x: Grid, shape: tuple[int, int], *, turned: bool, bias: bool
) -> tuple[str, integer.Integers, Any]:
    """A Gemm or MatMul with integers for its weight (K, M) and bias; they, too, as the reference takes them."""
    rng = np.random.default_rng(len(net.nodes))
    w = rng.integers(-127, 128, shape)
    scale = (rng.random(shape[1]) * 0.01 + 0.002).astype(np.float32)
    zeros = net.constant(np.zeros(shape[1], np.int8))
    stored = net.constant((w.T if turned else w).astype(np.int8))
    scales = net.constant(scale)
    weight = net.node("DequantizeLinear", stored, scales, zeros, axis=0 if turned else 1)
    b = rng.integers(-3000, 3000, shape[1]) if bias else None
    given = [tensor, weight]
    if b is not None:
        unit = net.constant((np.float32(x.scale) * scale).astype(np.float32))
        wide = net.constant(np.zeros(shape[1], np.int32))
        given.append(
            net.node("DequantizeLinear", net.constant(b.astype(np.int32)), unit, wide, axis=0)
        )
    made = (
        net.node("Gemm", *given, transB=int(turned))
        if turned or bias
        else net.node("MatMul", *given)
    )
    by_column = Grid(KINDS["int8"], scale, np.zeros(shape[1], int), 1)
    return made, integer.Integers(w, by_column), b


@EVERY
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize(("turned", "bias"), [(True, True), (False, True), (False, False)])
def test_a_dense_layer(turned: bool, bias: bool, kind: str, machine: str, tmp_path: Path) -> None:
    """A vector that is an input of the network, and a ReLU before the rounding."""
    x = X if kind == "int8" else grid(0.04, 100, "uint8")
    net = Network()
    name = net.input(1, 70)
    made, w, b = dense(net, net.pair(name, x), x, (70, 45), turned=turned, bias=bias)
    out = net.pair(net.node("Relu", made), Y)
    feeds = {name: drawn(x, 1, 70)}
    right = integer.matmul(integer.on_grid(feeds[name], x), w, Y, b)
    least = np.maximum(right.values, int(Y.zero))
    program = lowered(net.save(out, (1, 45), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, integer.Integers(least, Y).real())
    assert kernels(program, IntegerConv) == 1


@EVERY
def test_layers_behind_a_pooled_image(machine: str, tmp_path: Path) -> None:
    """Bytes all the way: the mean of an image, and two layers; only logits become numbers."""
    net = Network()
    name = net.input(1, 24, 6, 5)
    mean = net.pair(net.node("GlobalAveragePool", net.pair(name, X)), Y)
    vector = net.pair(net.node("Flatten", mean), Y)
    first, w, b = dense(net, vector, Y, (24, 40), turned=True, bias=True)
    hidden = net.pair(net.node("Relu", first), Z)
    second, v, c = dense(net, hidden, Z, (40, 10), turned=False, bias=True)
    out = net.pair(second, X)
    feeds = {name: drawn(X, 1, 24, 6, 5)}
    pooled = integer.global_average_pool(integer.on_grid(feeds[name], X), Y)
    row = integer.Integers(pooled.values.reshape(1, 24), Y)
    inner = integer.matmul(row, w, Z, b)
    inner = integer.Integers(np.maximum(inner.values, int(Z.zero)), Z)
    right = integer.matmul(inner, v, X, c)
    program = lowered(net.save(out, (1, 10), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())
    assert kernels(program, IntegerConv) == 2
    assert kernels(program, Block) == 1  # the input rounded
    assert kernels(program, Pointwise) == 1  # the output as numbers


@EVERY
def test_an_image_that_is_flattened(machine: str, tmp_path: Path) -> None:
    """Every pixel has weights of its own: one convolution as large as the image."""
    net = Network()
    name = net.input(1, 20, 3, 4)
    image = net.pair(name, X)
    vector = net.pair(net.node("Flatten", image), X)
    made, w, b = dense(net, vector, X, (240, 33), turned=False, bias=True)
    out = net.pair(made, Y)
    feeds = {name: drawn(X, 1, 20, 3, 4)}
    row = integer.on_grid(feeds[name].reshape(1, 240), X)
    right = integer.matmul(row, w, Y, b)
    program = lowered(net.save(out, (1, 33), tmp_path / "model.onnx"), machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())


DENSE = """(float[R,8] x) => (float[R,4] y) <float s = {{0.1}}, int8 z = {{0}}, int8[8,4] w, float t = {{0.01}}, float[1,4] b>
    {{ q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear (w, t{zero})
       y = Gemm <{attrs}> (d, v{bias}) }}"""


@pytest.mark.parametrize(
    ("attrs", "zero", "bias", "rows"),
    [
        ("alpha = 2.0", "", "", 1),
        ("beta = 1.0", "", ", b", 1),
        ("alpha = 1.0", "", "", 3),
    ],
)
def test_other_layers_stay(attrs: str, zero: str, bias: str, rows: int) -> None:
    graph = graph_from(DENSE.format(attrs=attrs, zero=zero, bias=bias).replace("R", str(rows)))
    vectors_to_images(graph)
    assert not list(nodes_of(graph, "Conv"))
    assert len(list(nodes_of(graph, "Gemm"))) == 1


def test_the_same_layer_in_one_row_is_rewritten() -> None:
    graph = graph_from(DENSE.format(attrs="alpha = 1.0", zero="", bias="").replace("R", "1"))
    name = next(nodes_of(graph, "Gemm")).name
    vectors_to_images(graph)
    assert [n.name for n in nodes_of(graph, "Conv")] == [name]
    assert not list(nodes_of(graph, "Gemm"))


def test_scales_along_what_is_summed_over_stay() -> None:
    text = DENSE.format(attrs="alpha = 1.0", zero=", u", bias="").replace("R", "1")
    text = text.replace("float t = {0.01}", "float[8] t, int8[8] u")
    text = text.replace("v = DequantizeLinear (w", "v = DequantizeLinear <axis = 0> (w")
    graph = graph_from(text)
    for node in nodes_of(graph, "DequantizeLinear"):
        if node.inputs[2].name == "u":
            node.inputs[2].values = np.zeros(8, np.int8)
    vectors_to_images(graph)
    assert not list(nodes_of(graph, "Conv"))
