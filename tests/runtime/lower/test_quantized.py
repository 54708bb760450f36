"""A quantized graph computes in integers what the quantizer's reference says, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from graphopt.frontends.onnx_file import load
from graphopt.passes.quantize import integer
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.runtime.kernels.blocking import Block
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.depthwise_int8 import IntegerDepthwise
from graphopt.runtime.kernels.movement import CopyChannels
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.program import Program
from graphopt.runtime.lower.sizes import fix_sizes
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter

Values = np.ndarray[Any, Any]


def grid(scale: float, zero: int, kind: str = "int8") -> Grid:
    return Grid(KINDS[kind], np.asarray(scale, np.float32), np.asarray(zero))


class Network:
    """A graph of pairs, written node by node; `tensor` names are what nodes return."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self._random = np.random.default_rng(7)

    def input(self, *shape: int) -> str:
        name = f"in{len(self.inputs)}"
        self.inputs[name] = shape
        return name

    def node(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n_{name}", **attrs))
        return name

    def constant(self, values: Values) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def pair(self, tensor: str, to: Grid) -> str:
        with_grid = [self.constant(to.scale), self.constant(to.zero.astype(to.kind.dtype))]
        return self.node(
            "DequantizeLinear", self.node("QuantizeLinear", tensor, *with_grid), *with_grid
        )

    def conv(self, tensor: str, x: Grid, shape: tuple[int, ...], **attrs: Any) -> str:
        """A convolution with integers for its weight and bias; what they are stays in `last`."""
        w = self._random.integers(-127, 128, shape)
        scale = (self._random.random(shape[0]) * 0.01 + 0.002).astype(np.float32)
        b = self._random.integers(-3000, 3000, shape[0])
        self.last = (integer.Integers(w, Grid(KINDS["int8"], scale, np.zeros(shape[0], int), 0)), b)
        zeros = np.zeros(shape[0])
        weight = [self.constant(v) for v in (w.astype(np.int8), scale, zeros.astype(np.int8))]
        unit = (np.float32(x.scale) * scale).astype(np.float32)
        bias = [self.constant(v) for v in (b.astype(np.int32), unit, zeros.astype(np.int32))]
        given = [self.node("DequantizeLinear", *parts, axis=0) for parts in (weight, bias)]
        return self.node("Conv", tensor, *given, **attrs)

    def save(self, out: str, shape: tuple[int, ...], path: Path) -> Path:
        def port(name: str, dims: tuple[int, ...]) -> Any:
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)

        inputs = [port(n, s) for n, s in self.inputs.items()]
        graph = helper.make_graph(self.nodes, "g", inputs, [port(out, shape)], self.constants)
        opset = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
        return path


def lowered(path: Path, machine: str) -> Program:
    graph = load(path)
    fix_sizes(graph)
    return Lowering(graph, MACHINES[machine]).run()


def kernels(program: Program, kind: type) -> int:
    return sum(isinstance(s.kernel, kind) for s in program.steps)


def drawn(x: Grid, *shape: int, seed: int = 0) -> Values:
    """Numbers that reach over both ends of the grid."""
    steps = np.random.default_rng(seed).integers(-140, 140, shape)
    return ((steps + 0.25) * np.float32(x.scale)).astype(np.float32)


X, OTHER, Y = grid(0.04, -12), grid(0.031, 40), grid(0.05, 7)
SIZE = (9, 10)
EVERY = pytest.mark.parametrize("machine", MACHINES)
Made = tuple[str, "Callable[[list[integer.Integers]], integer.Integers]"]


def _conv(net: Network, ins: list[str], y: Grid) -> Made:
    made = net.conv(ins[0], X, (21, 24, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    w, bias = net.last
    how = {"strides": (2, 2), "pads": (1, 1, 1, 1)}
    return made, lambda p: integer.conv2d(p[0], w, y, bias, **how)


def _depthwise(net: Network, ins: list[str], y: Grid) -> Made:
    made = net.conv(ins[0], X, (24, 1, 3, 3), pads=[1, 1, 1, 1], group=24)
    w, bias = net.last
    return made, lambda p: integer.conv2d(p[0], w, y, bias, pads=(1, 1, 1, 1), group=24)


def _grouped(net: Network, ins: list[str], y: Grid) -> Made:
    """Groups of four channels, which fill no block of integers: all are computed as one."""
    made = net.conv(ins[0], X, (12, 4, 3, 3), pads=[1, 1, 1, 1], group=6)
    w, bias = net.last
    return made, lambda p: integer.conv2d(p[0], w, y, bias, pads=(1, 1, 1, 1), group=6)


def _add(net: Network, ins: list[str], y: Grid) -> Made:
    return net.node("Add", *ins), lambda p: integer.add(*p, y)


def _mul(net: Network, ins: list[str], y: Grid) -> Made:
    return net.node("Mul", *ins), lambda p: integer.mul(*p, y)


def _concat(net: Network, ins: list[str], y: Grid) -> Made:
    return net.node("Concat", *ins, axis=1), lambda p: integer.concat(p, y)


def _mean(net: Network, ins: list[str], y: Grid) -> Made:
    made = net.node("AveragePool", ins[0], kernel_shape=[2, 2], strides=[1, 2])
    return made, lambda p: integer.average_pool(p[0], y, (2, 2), strides=(1, 2))


def _padded_mean(net: Network, ins: list[str], y: Grid) -> Made:
    window: dict[str, Any] = {"strides": [2, 2], "pads": [1, 0, 1, 2], "count_include_pad": 0}
    made = net.node("AveragePool", ins[0], kernel_shape=[3, 4], **window)
    window["count_include_pad"] = False
    return made, lambda p: integer.average_pool(p[0], y, (3, 4), **window)


def _global_mean(net: Network, ins: list[str], y: Grid) -> Made:
    return net.node("GlobalAveragePool", ins[0]), lambda p: integer.global_average_pool(p[0], y)


def _largest(net: Network, ins: list[str], y: Grid) -> Made:
    made = net.node("MaxPool", ins[0], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def pooled(given: list[integer.Integers]) -> integer.Integers:
        largest = integer.max_pool(given[0], (3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
        return integer.requantized(largest, y)

    return made, pooled


def _requantize(net: Network, ins: list[str], y: Grid) -> Made:
    return net.node("Identity", ins[0]), lambda p: integer.requantized(p[0], y)


OPERATORS = {
    "conv": _conv,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "add": _add,
    "mul": _mul,
    "concat": _concat,
    "mean": _mean,
    "padded_mean": _padded_mean,
    "global_mean": _global_mean,
    "largest": _largest,
    "requantize": _requantize,
}


@EVERY
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator(name: str, kind: str, machine: str, tmp_path: Path) -> None:
    """One operator between integers equals the reference; a ReLU before the rounding costs nothing."""
    shift = 128 if kind == "uint8" else 0
    a, b, y = (grid(float(g.scale), int(g.zero) + shift, kind) for g in (X, OTHER, Y))
    net = Network()
    ins = [net.input(1, 24, *SIZE), net.input(1, 24, *SIZE)]
    made, reference = OPERATORS[name](net, [net.pair(ins[0], a), net.pair(ins[1], b)], y)
    out = net.pair(net.node("Relu", made), y)
    feeds = {ins[0]: drawn(a, 1, 24, *SIZE), ins[1]: drawn(b, 1, 24, *SIZE, seed=1)}
    right = reference([integer.on_grid(feeds[i], g) for i, g in zip(ins, (a, b), strict=True)])
    steps = np.maximum(right.values, int(y.zero))
    path = net.save(out, right.values.shape, tmp_path / "model.onnx")
    program = lowered(path, machine)
    found = Interpreter(program, tmp_path).run(feeds)[out]
    wanted = y.dequantize(steps)
    assert len(np.unique(steps)) > 5
    differing = np.rint(np.abs(found - wanted) / y.scale)
    # A fused multiply-add rounds once where the reference rounds twice: half a step may fall apart.
    assert differing.max() <= (1 if name == "add" else 0)
    assert (differing > 0).mean() <= 0.001


def test_what_is_integer_is_computed_so(tmp_path: Path) -> None:
    """Convolutions on integers, a joined image without copies, no numbers in between."""
    net = Network()
    a = net.pair(net.input(1, 16, *SIZE), X)
    c = net.pair(net.node("Relu", net.conv(a, X, (32, 16, 1, 1))), Y)
    d = net.pair(net.conv(c, Y, (32, 1, 3, 3), group=32, pads=[1, 1, 1, 1]), Y)
    e = net.pair(net.node("MaxPool", c, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), Y)
    f = net.pair(net.node("Concat", d, e, c, axis=1), Y)
    out = net.pair(net.conv(f, Y, (16, 96, 1, 1)), X)
    program = lowered(net.save(out, (1, 16, *SIZE), tmp_path / "model.onnx"), "neon")
    counts = {k: kernels(program, k) for k in (IntegerConv, IntegerDepthwise, CopyChannels)}
    assert counts == {IntegerConv: 2, IntegerDepthwise: 1, CopyChannels: 0}
    # The input is put on its grid as it is blocked, and the output made numbers of.
    assert kernels(program, Block) == 1
    assert kernels(program, Pointwise) == 1


@pytest.mark.parametrize("to", [X, Y, OTHER])
def test_what_moves_integers_may_change_their_grid(to: Grid, tmp_path: Path) -> None:
    net = Network()
    name = net.input(1, 24, *SIZE)
    made, reference = _largest(net, [net.pair(name, X)], to)
    out = net.pair(made, to)
    feeds = {name: drawn(X, 1, 24, *SIZE)}
    right = reference([integer.on_grid(feeds[name], X)])
    path = net.save(out, right.values.shape, tmp_path / "model.onnx")
    found = Interpreter(lowered(path, "neon"), tmp_path).run(feeds)[out]
    np.testing.assert_array_equal(found, right.real())


ACTIVATIONS = ["LeakyRelu", "HardSwish", "Sigmoid", "Tanh", "Clip", "Silu"]


@EVERY
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_an_activation_before_the_rounding(op: str, machine: str, tmp_path: Path) -> None:
    net = Network()
    name = net.input(1, 24, *SIZE)
    made = net.conv(net.pair(name, X), X, (20, 24, 1, 1))
    if op == "Silu":
        made = net.node("Mul", made, net.node("Sigmoid", made))
    elif op == "Clip":
        limits = (net.constant(np.float32(v)) for v in (0.1, 2.0))
        made = net.node("Clip", made, *limits)
    else:
        made = net.node(op, made)
    out = net.pair(made, grid(0.02, -60))
    _equals_onnxruntime(net, out, (1, 20, *SIZE), {name: drawn(X, 1, 24, *SIZE)}, machine, tmp_path)


@EVERY
def test_a_mixed_network(machine: str, tmp_path: Path) -> None:
    """Float and integer layers in turn, a gate, an enlarged image, pieces of channels, float at the end."""
    net, random = Network(), np.random.default_rng(3)
    name = net.input(1, 3, 12, 14)
    w = net.constant((random.standard_normal((24, 3, 3, 3)) / 3).astype(np.float32))
    a = net.pair(net.node("Relu", net.node("Conv", name, w, pads=[1, 1, 1, 1])), OTHER)
    mean = net.pair(net.node("GlobalAveragePool", a), OTHER)
    gate = net.pair(
        net.node("HardSigmoid", net.conv(mean, OTHER, (24, 24, 1, 1))), grid(1 / 256, -128)
    )
    b = net.pair(net.node("Mul", a, gate), OTHER)
    small = net.pair(net.conv(b, OTHER, (40, 24, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), X)
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    how = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    large = net.pair(net.node("Resize", small, "", scales, **how), X)
    c = net.pair(net.node("Concat", large, b, axis=1), X)
    v = net.constant((random.standard_normal((10, 64, 1, 1)) / 8).astype(np.float32))
    out = net.node("Sigmoid", net.node("Conv", c, v))
    feeds = {name: random.standard_normal((1, 3, 12, 14)).astype(np.float32)}
    _equals_onnxruntime(net, out, (1, 10, 12, 14), feeds, machine, tmp_path, step=0.02)


@EVERY
def test_pieces_of_channels(machine: str, tmp_path: Path) -> None:
    """A Split at a channel block's end and beside it, joined the other way round: bytes alone move."""
    net = Network()
    name = net.input(1, 52, *SIZE)
    x = net.pair(name, X)
    sizes = net.constant(np.array([16, 20, 16], np.int64))
    pieces = ["p0", "p1", "p2"]
    net.nodes.append(helper.make_node("Split", [x, sizes], pieces, name="split", axis=1))
    first, second, third = (net.pair(p, X) for p in pieces)
    out = net.pair(net.node("Concat", third, second, first, axis=1), X)
    feeds = {name: drawn(X, 1, 52, *SIZE)}
    _equals_onnxruntime(net, out, (1, 52, *SIZE), feeds, machine, tmp_path, step=0.0)


@EVERY
def test_what_is_interpolated_is_rounded_again(machine: str, tmp_path: Path) -> None:
    """A linear Resize between integers computes numbers, with the sum behind it."""
    net, y = (
        Network(),
        grid(0.0517, 7),
    )  # sixteenths of 0.04 would often fall on half a step of 0.05
    names = net.input(1, 24, 5, 6), net.input(1, 24, 10, 12)
    sizes = net.constant(np.array([1, 1, 2, 2], np.float32))
    twice = net.node("Resize", net.pair(names[0], X), "", sizes, mode="linear")
    out = net.pair(net.node("Add", twice, net.pair(names[1], OTHER)), y)
    feeds = {names[0]: drawn(X, 1, 24, 5, 6), names[1]: drawn(OTHER, 1, 24, 10, 12)}
    _equals_onnxruntime(net, out, (1, 24, 10, 12), feeds, machine, tmp_path, step=float(y.scale))


@EVERY
def test_classes_of_integers_are_computed_as_numbers(machine: str, tmp_path: Path) -> None:
    net = Network()
    name = net.input(1, 21, *SIZE)
    out = net.pair(net.node("Softmax", net.pair(name, X), axis=1), grid(1 / 256, -128))
    feeds = {name: drawn(X, 1, 21, *SIZE)}
    _equals_onnxruntime(net, out, (1, 21, *SIZE), feeds, machine, tmp_path, step=1 / 256)


@EVERY
def test_what_has_no_integer_kernel_is_float(machine: str, tmp_path: Path) -> None:
    """A dense layer behind values of 16 bits."""
    net, wide = Network(), grid(0.0002, 5, "int16")
    name = net.input(1, 24, *SIZE)
    conv = net.conv(net.pair(name, X), X, (12, 24, 3, 3))
    rows = net.node("Flatten", net.pair(net.node("Sigmoid", conv), wide))
    w = net.constant((np.random.default_rng(0).standard_normal((672, 30)) / 9).astype(np.float32))
    out = net.pair(net.node("MatMul", net.pair(rows, grid(1 / 256, -128)), w), Y)
    feeds = {name: drawn(X, 1, 24, *SIZE)}
    _equals_onnxruntime(net, out, (1, 30), feeds, machine, tmp_path, step=0.05, share=0.05)


def _equals_onnxruntime(
    net: Network,
    out: str,
    shape: tuple[int, ...],
    feeds: dict[str, Values],
    machine: str,
    folder: Path,
    step: float = 0.02,
    share: float = 0.002,
) -> None:
    """As computed in float between the roundings: one step where that falls on half a step."""
    path = net.save(out, shape, folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (right,) = session.run(None, feeds)
    found = Interpreter(lowered(path, machine), folder).run(feeds)[out]
    assert right.std() > step
    differing = np.abs(found - right)
    assert differing.max() <= step * 1.01
    assert (differing > step / 2).mean() <= share
