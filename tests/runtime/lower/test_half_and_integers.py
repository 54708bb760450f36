"""Integers beside half precision: kernels of each read and write what the other keeps in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from graphopt.frontends.onnx_file import load
from graphopt.passes.quantize import integer
from graphopt.runtime.kernels.conv import DirectConv
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.grid import Half
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.program import Program
from graphopt.runtime.lower.sizes import fix_sizes
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter
from tests.runtime.lower.test_quantized import OPERATORS, Network, drawn, grid

# Steps that half precision has exactly, so that numbers in half and in float are the same.
X, OTHER, Y = grid(1 / 32, -12), grid(1 / 64, 40), grid(1 / 16, 7)
SIZE = (9, 10)


def lowered(path: Path, machine: str = "neon") -> Program:
    """Images in half, two to a register of float32, and everything else as ever."""
    graph = load(path)
    fix_sizes(graph)
    plain = MACHINES[machine]
    half = replace(plain, lanes=2 * plain.lanes, dtype="float16")
    return Lowering(graph, half, plain).run()


EVERY = pytest.mark.parametrize("machine", MACHINES)


@EVERY
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_between_images_in_half(name: str, machine: str, tmp_path: Path) -> None:
    """It equals the reference to the last bit: what goes in and comes out are numbers in half."""
    net = Network()
    # The generator of layers counts biases in steps of the usual grid of its input; here it is X.
    names = [net.input(1, 24, *SIZE) for _ in range(2 if name in ("add", "mul", "concat") else 1)]
    grids = [X, OTHER][: len(names)]
    ins = [net.pair(n, g) for n, g in zip(names, grids, strict=True)]
    if name in ("conv", "depthwise", "grouped"):
        shape, attrs = {
            "conv": ((21, 24, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            "depthwise": ((24, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 24}),
            "grouped": ((12, 4, 3, 3), {"pads": [1, 1, 1, 1], "group": 6}),
        }[name]
        made = net.conv(ins[0], X, shape, **attrs)
        w, bias = net.last
        how = {k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()}

        def reference(given: list[integer.Integers]) -> integer.Integers:
            return integer.conv2d(given[0], w, Y, bias, **how)
    else:
        made, reference = OPERATORS[name](net, ins, Y)
    out = net.pair(made, Y)
    feeds = {
        n: drawn(g, 1, 24, *SIZE, seed=i) for i, (n, g) in enumerate(zip(names, grids, strict=True))
    }
    right = reference([integer.on_grid(feeds[n], g) for n, g in zip(names, grids, strict=True)])
    path = net.save(out, right.values.shape, tmp_path / "model.onnx")
    program = lowered(path, machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())


@EVERY
def test_sums_of_integers_are_read_in_half(machine: str, tmp_path: Path) -> None:
    """A product of integers that ends in numbers, added to an image in half and read by a float layer;
    a float layer that reads integers, one that writes them, and a gate."""
    net, random = Network(), np.random.default_rng(3)
    name = net.input(1, 3, 12, 14)
    w = net.constant((random.standard_normal((24, 3, 3, 3)) / 3).astype(np.float32))
    first = net.node("Relu", net.node("Conv", name, w, pads=[1, 1, 1, 1]))
    a = net.pair(first, X)
    b = net.node("Add", net.conv(a, X, (24, 24, 3, 3), pads=[1, 1, 1, 1]), first)
    v = net.constant((random.standard_normal((24, 24, 3, 3)) / 15).astype(np.float32))
    c = net.node("Add", net.node("Conv", b, v, pads=[1, 1, 1, 1]), a)
    d = net.pair(net.node("MaxPool", c, kernel_shape=[2, 2], strides=[2, 2]), Y)
    gate = net.node("HardSigmoid", net.node("GlobalAveragePool", d))
    e = net.pair(net.node("Mul", d, gate), Y)
    u = net.constant((random.standard_normal((10, 24, 1, 1)) / 5).astype(np.float32))
    out = net.node("Conv", e, u)
    path = net.save(out, (1, 10, 6, 7), tmp_path / "model.onnx")
    feeds = {name: random.standard_normal((1, 3, 12, 14)).astype(np.float32)}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (right,) = session.run(None, feeds)
    program = lowered(path, machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()
    kinds = [type(s.kernel) for s in program.steps]
    assert kinds.count(IntegerConv) == 1
    assert DirectConv in kinds
    (product,) = (s.kernel for s in program.steps if isinstance(s.kernel, IntegerConv))
    assert isinstance(product.sink.grid, Half)


@EVERY
def test_an_operand_of_integers_becomes_half(machine: str, tmp_path: Path) -> None:
    """What follows the sum is computed in half: a polynomial that takes numbers apart by their bits."""
    net, random = Network(), np.random.default_rng(3)
    name = net.input(1, 24, *SIZE)
    w = net.constant((random.standard_normal((24, 24, 1, 1)) / 8).astype(np.float32))
    total = net.node("Add", net.node("Conv", name, w), net.pair(name, X))
    out = net.node("Sigmoid", total)
    path = net.save(out, (1, 24, *SIZE), tmp_path / "model.onnx")
    feeds = {name: drawn(X, 1, 24, *SIZE)}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (right,) = session.run(None, feeds)
    program = lowered(path, machine)
    assert np.abs(Interpreter(program, tmp_path).run(feeds)[out] - right).max() < 5e-3
    (product,) = (s.kernel for s in program.steps if isinstance(s.kernel, DirectConv))
    assert [o.strides.grid is not None for o in product.expression.operands] == [True]


@EVERY
def test_images_in_half_are_interpolated_and_classified(machine: str, tmp_path: Path) -> None:
    """Between numbers in half and integers; what a softmax sums up is float32."""
    net, random = Network(), np.random.default_rng(3)
    name = net.input(1, 3, 6, 7)
    w, v = (
        net.constant((random.standard_normal(s) / 9).astype(np.float32))
        for s in ((24, 3, 3, 3), (21, 24, 1, 1))
    )
    sizes = net.constant(np.array([1, 1, 2, 2], np.float32))
    a = net.node("Relu", net.node("Conv", name, w, pads=[1, 1, 1, 1]))
    b = net.pair(net.node("Resize", a, "", sizes, mode="linear"), X)
    c = net.node("Resize", net.conv(b, X, (24, 24, 1, 1)), "", sizes, mode="linear")
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    d = net.node("AveragePool", c, **window)
    out = net.node("Softmax", net.node("Conv", d, v), axis=1)
    path = net.save(out, (1, 21, 12, 14), tmp_path / "model.onnx")
    feeds = {name: random.standard_normal((1, 3, 6, 7)).astype(np.float32)}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (right,) = session.run(None, feeds)
    program = lowered(path, machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()
    assert all(s.ranged for s in program.steps)
