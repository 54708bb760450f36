"""Three ways to compute a network in QDQ form agree: its FX view, ONNX Runtime's integer kernels, the reference.

The view computes with real numbers on grids, ONNX Runtime (with its own optimizations) with the kernels it
fuses Q and DQ into, the reference with integers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_integer import BYTES, Array, drawn_weight, grid

from graphopt.frontends.normal_form import normalize
from graphopt.fx import to_fx
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.passes.quantize.integer import (
    Integers,
    add,
    average_pool,
    concat,
    conv2d,
    gemm,
    global_average_pool,
    leaky_relu,
    max_pool,
    mul,
    on_grid,
    requantized,
    resize,
    sigmoid,
)
from graphopt.runtime.run import open_graph

SHAPE = (4, 8, 10, 12)


class Traced(NamedTuple):
    """A tensor of the network, and the integers the reference has for it."""

    name: str
    held: Integers


class Network:
    """A graph in QDQ form, and what the reference computes beside it."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.rng = kind, np.random.default_rng(seed)
        self.fed = (self.rng.standard_normal(SHAPE) * 1.5).astype(np.float32)
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []

    def constant(self, values: Any) -> str:
        self.held.append(numpy_helper.from_array(np.asarray(values), f"c{len(self.held)}"))
        return self.held[-1].name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def input(self) -> Traced:
        on = self.grid(0.03)
        return self.traced("x", on_grid(self.fed, on))

    def grid(self, scale: float, *, zero: int | None = None) -> Grid:
        middle = (KINDS[self.kind].low + KINDS[self.kind].high) // 2
        at = middle + int(self.rng.integers(-20, 20)) if zero is None else zero
        return grid(self.kind, scale * self.rng.uniform(0.8, 1.3), at)

    def traced(self, name: str, held: Integers) -> Traced:
        """A computed tensor put on the grid of what the reference has for it."""
        on = held.grid
        both = [self.constant(on.scale), self.constant(on.zero.astype(on.kind.dtype))]
        quantized = self.node("QuantizeLinear", name, *both)
        return Traced(self.node("DequantizeLinear", quantized, *both), held)

    def weight(self, held: Integers) -> str:
        scale, zero = held.grid.scale, np.zeros(held.grid.scale.shape, np.int8)
        parts = [self.constant(v) for v in (held.values, scale, zero)]
        return self.node("DequantizeLinear", *parts, axis=0)

    def bias(self, x: Traced, weight: Integers) -> tuple[str, Array]:
        values = self.rng.integers(-2000, 2000, len(weight.values)).astype(np.int32)
        scale = self.constant((x.held.grid.scale * weight.grid.scale).astype(np.float32))
        return self.node("DequantizeLinear", self.constant(values), scale, axis=0), values

    def model(self, result: Traced) -> onnx.ModelProto:
        fed = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
        end = helper.make_node("Identity", [result.name], ["y"])
        outputs = [onnx.ValueInfoProto(name="y")]
        graph = helper.make_graph([*self.nodes, end], "network", [fed], outputs, self.held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        return onnx.shape_inference.infer_shapes(model)


# --- layers: the nodes, and the reference of them ----------------------------------------------


def convolution(net: Network, x: Traced, *, group: int = 1, relu: bool = False) -> Traced:
    channels = x.held.values.shape[1]
    weight = drawn_weight(net.rng, channels, channels // group, 3, 3)
    y = net.grid(0.05, zero=KINDS[net.kind].low if relu else None)
    name, bias = net.bias(x, weight)
    how = {"pads": [1, 1, 1, 1], "group": group}
    out = net.node("Conv", x.name, net.weight(weight), name, **how)
    out = net.node("Relu", out) if relu else out  # which the grid, that has nothing below 0, does
    return net.traced(out, conv2d(x.held, weight, y, bias, **how))


def strided(net: Network, x: Traced) -> Traced:
    weight, y = drawn_weight(net.rng, 6, 8, 3, 2, per_channel=False), net.grid(0.05)
    how = {"pads": [2, 0, 1, 1], "strides": [2, 3], "dilations": [2, 1]}
    out = net.node("Conv", x.name, net.weight(weight), **how)
    return net.traced(out, conv2d(x.held, weight, y, **how))


def linear(net: Network, x: Traced) -> Traced:
    mean = net.grid(0.006)
    pooled = net.traced(net.node("GlobalAveragePool", x.name), global_average_pool(x.held, mean))
    flat = Integers(pooled.held.values.reshape(len(pooled.held.values), -1), mean)
    row = net.traced(net.node("Flatten", pooled.name), flat)
    weight, y = drawn_weight(net.rng, 5, flat.values.shape[1]), net.grid(0.02)
    name, bias = net.bias(row, weight)
    out = net.node("Gemm", row.name, net.weight(weight), name, transB=1)
    return net.traced(out, gemm(row.held, weight, y, bias))


def beside(net: Network, x: Traced) -> Traced:
    """The same values on another grid."""
    return net.traced(net.node("Neg", net.node("Neg", x.name)), requantized(x.held, net.grid(0.05)))


def joined(op: str, function: Callable[..., Integers], scale: float) -> Callable[..., Traced]:
    def layer(net: Network, x: Traced) -> Traced:
        other, y = beside(net, x), net.grid(scale)
        return net.traced(net.node(op, x.name, other.name), function(x.held, other.held, y))

    return layer


def concatenated(net: Network, x: Traced) -> Traced:
    other, y = beside(net, x), net.grid(0.05)
    out = net.node("Concat", x.name, other.name, axis=1)
    return net.traced(out, concat([x.held, other.held], y))


def largest(net: Network, x: Traced) -> Traced:
    how = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    out = net.node("MaxPool", x.name, kernel_shape=[3, 3], **how)
    return net.traced(out, max_pool(x.held, (3, 3), **how))


def mean(net: Network, x: Traced) -> Traced:
    y = net.grid(0.02)
    out = net.node("AveragePool", x.name, kernel_shape=[2, 2], strides=[2, 2])
    return net.traced(out, average_pool(x.held, y, (2, 2), strides=(2, 2)))


def whole_mean(net: Network, x: Traced) -> Traced:
    y = net.grid(0.006)
    return net.traced(net.node("GlobalAveragePool", x.name), global_average_pool(x.held, y))


def nearest(net: Network, x: Traced) -> Traced:
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    height, width = x.held.values.shape[2:]
    out = net.node("Resize", x.name, "", scales, **how)
    return net.traced(out, resize(x.held, (2 * height, 2 * width)))


def interpolated(net: Network, x: Traced) -> Traced:
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    height, width = x.held.values.shape[2:]
    out, y = net.node("Resize", x.name, "", scales, mode="linear"), net.grid(0.03)
    how = {"mode": "linear", "coordinates": "half_pixel"}
    return net.traced(out, resize(x.held, (2 * height, 2 * width), y, **how))


def leaky(net: Network, x: Traced) -> Traced:
    y = net.grid(0.03)
    return net.traced(net.node("LeakyRelu", x.name, alpha=0.1), leaky_relu(x.held, y, alpha=0.1))


def squashed(net: Network, x: Traced) -> Traced:
    y = grid(net.kind, 1 / 256, KINDS[net.kind].low)
    return net.traced(net.node("Sigmoid", x.name), sigmoid(x.held, y))


# What ONNX Runtime fuses each to; a linear Resize stays one of real numbers.
LAYERS: dict[str, tuple[Callable[..., Traced], str]] = {
    "conv": (convolution, "QLinearConv"),
    "conv, depthwise": (lambda net, x: convolution(net, x, group=8), "QLinearConv"),
    "conv, relu": (lambda net, x: convolution(net, x, relu=True), "QLinearConv"),
    "conv, strided": (strided, "QLinearConv"),
    "gemm": (linear, "QGemm"),
    "add": (joined("Add", add, 0.08), "QLinearAdd"),
    "mul": (joined("Mul", mul, 0.1), "QLinearMul"),
    "concat": (concatenated, "QLinearConcat"),
    "max pool": (largest, "MaxPool"),
    "average pool": (mean, "QLinearAveragePool"),
    "global average pool": (whole_mean, "QLinearGlobalAveragePool"),
    "resize, nearest": (nearest, "Resize"),
    "resize, linear": (interpolated, "Resize"),
    "leaky relu": (leaky, "QLinearLeakyRelu"),
    "sigmoid": (squashed, "QLinearSigmoid"),
}


def optimized_by_onnx_runtime(
    model: onnx.ModelProto, feeds: dict[str, Array], folder: Any
) -> tuple[Array, set]:
    """The result with its own optimizations, and the operators it went over to."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns that the file fits this machine alone
    # As on ARM: elsewhere int8 becomes uint8 before it fuses, and what two nodes read does not fuse then.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    result = session.run(None, feeds)[0]
    return result, {n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node}


def three_ways(net: Network, result: Traced, folder: Any) -> tuple[dict[str, Array], set]:
    """How many steps of the last grid every way is from the reference, and what was fused."""
    model = net.model(result)
    feeds = {"x": net.fed}
    fused, operators = optimized_by_onnx_runtime(model, feeds, folder)
    graph = normalize(model)
    with torch.no_grad():
        viewed = to_fx(graph)(torch.from_numpy(net.fed)).numpy()
    plain = open_graph(graph, threads=1).run(feeds)["y"]
    expected, scale = result.held.real(), float(result.held.grid.scale)
    ways = {"view": viewed, "as written": plain, "fused": fused}
    steps = {name: np.rint((values - expected) / scale) for name, values in ways.items()}
    for name, values in ways.items():
        np.testing.assert_allclose(values, expected + steps[name] * scale, atol=1e-3 * scale)
    return steps, operators


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_same_three_ways(name: str, kind: str, tmp_path: Any) -> None:
    layer, fused = LAYERS[name]
    net = Network(kind, seed=sum(map(ord, name)))
    steps, operators = three_ways(net, layer(net, net.input()), tmp_path)
    assert fused in operators
    for apart in steps.values():
        assert np.abs(apart).max() <= 1
        # Products and sums of real numbers round before they meet a half, those of integers do not.
        assert (apart != 0).mean() <= 0.0005


@pytest.mark.parametrize("kind", BYTES)
def test_a_network_is_the_same_three_ways(kind: str, tmp_path: Any) -> None:
    net = Network(kind, seed=1)
    x = net.input()
    first = convolution(net, x, relu=True)
    deep = convolution(net, first, group=8)
    both = net.traced(
        net.node("Add", first.name, deep.name), add(first.held, deep.held, y := net.grid(0.08))
    )
    large = nearest(net, largest(net, both))
    joined_up = net.traced(
        net.node("Concat", large.name, both.name, axis=1), concat([large.held, both.held], y)
    )
    result = linear(net, mean(net, leaky(net, joined_up)))
    steps, operators = three_ways(net, result, tmp_path)
    expected = ("QLinearConv", "QLinearAdd", "QLinearConcat", "QLinearLeakyRelu", "QGemm", "Resize")
    assert set(expected) <= operators
    for apart in steps.values():
        assert np.abs(apart).max() <= 1
        assert (apart != 0).mean() <= 0.1
