"""What operators of later opsets are called, or made of, in earlier ones.

A rule takes a node away or changes it until the older standard has it; what it cannot change it leaves
as it is, and `lower_opset.unfit` then says what is in the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_of,
    input_value,
    rank_of,
    replace_uses,
    static_shape,
)

Rule = Callable[[Graph, Node], None]
# Attributes that came later, with the value that means what was before.
_SINCE: dict[str, dict[str, Any]] = {
    "AveragePool": {"dilations": None},
    "BatchNormalization": {"training_mode": 0},
    "Cast": {"saturate": 1},
    "DequantizeLinear": {"block_size": 0},
    "LpPool": {"ceil_mode": 0, "dilations": None},
    "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0},
    "Reshape": {"allowzero": 0},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch"},
    "ScatterElements": {"reduction": "none"},
    "ScatterND": {"reduction": "none"},
    "Shape": {"start": 0},
}
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)


def older(graph: Graph, node: Node) -> None:
    """Applies the rule for a node, if there is one."""
    for name, before in _SINCE.get(node.op, {}).items():
        _forget(node, name, before)
    rule = _RULES.get(node.op)
    if rule is not None:
        rule(graph, node)


def _forget(node: Node, name: str, before: Any) -> None:
    value = node.attrs.get(name)
    ones = before is None and value is not None and all(v == 1 for v in value)
    if value is not None and (ones or value == before):
        del node.attrs[name]


def _hard_swish(graph: Graph, node: Node) -> None:
    """x * max(0, min(1, x / 6 + 1 / 2))."""
    x, out = node.inputs[0], node.outputs[0]
    gate = add_node(graph, "HardSigmoid", [x], like=out, attrs={"alpha": 1 / 6, "beta": 0.5})
    replace_uses(graph, out, add_node(graph, "Mul", [x, gate], like=out))


def _mish(graph: Graph, node: Node) -> None:
    """x * tanh(softplus(x))."""
    x, out = node.inputs[0], node.outputs[0]
    gate = add_node(graph, "Tanh", [add_node(graph, "Softplus", [x], like=out)], like=out)
    replace_uses(graph, out, add_node(graph, "Mul", [x, gate], like=out))


def _gelu(graph: Graph, node: Node) -> None:
    """x / 2 * (1 + erf(x / sqrt(2))), or with tanh of sqrt(2 / pi) (x + 0.044715 x^3)."""
    x, out = node.inputs[0], node.outputs[0]
    arithmetic = _Arithmetic(graph, out)
    if node.attrs.get("approximate", "none") == "tanh":
        cube = arithmetic("Mul", arithmetic("Mul", x, x), x)
        inner = arithmetic("Add", x, arithmetic("Mul", cube, 0.044715))
        curve = add_node(
            graph, "Tanh", [arithmetic("Mul", inner, math.sqrt(2 / math.pi))], like=out
        )
    else:
        curve = add_node(graph, "Erf", [arithmetic("Mul", x, math.sqrt(0.5))], like=out)
    half = arithmetic("Mul", x, 0.5)
    replace_uses(graph, out, arithmetic("Mul", half, arithmetic("Add", curve, 1.0)))


def _layer_norm(graph: Graph, node: Node) -> None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta, over the last axes."""
    x, out = node.inputs[0], node.outputs[0]
    rank = rank_of(x)
    if rank is None or any(t.outputs for t in node.outputs[1:]):
        return
    first = node.attrs.get("axis", -1) % rank
    arithmetic = _Arithmetic(graph, out)
    attrs = {"axes": list(range(first, rank)), "keepdims": 1}
    shape = None if x.shape is None else [*x.shape[:first], *[1] * (rank - first)]

    def mean(of: Tensor) -> Tensor:
        return add_node(graph, "ReduceMean", [of], like=out, attrs=attrs, shape=shape)

    centred = arithmetic("Sub", x, mean(x))
    variance = mean(arithmetic("Mul", centred, centred))
    inside = arithmetic("Add", variance, float(node.attrs.get("epsilon", 1e-5)), shape=shape)
    root = add_node(graph, "Sqrt", [inside], like=out, shape=shape)
    made = arithmetic("Mul", arithmetic("Div", centred, root), node.inputs[1])
    beta = input_of(node, 2)
    replace_uses(graph, out, made if beta is None else arithmetic("Add", made, beta))


def _reduction(_: Graph, node: Node) -> None:
    """Axes were an attribute."""
    axes = input_value(node, 1)
    if axes is None and input_of(node, 1) is not None:
        return  # computed
    named = [] if axes is None else [int(a) for a in axes.reshape(-1)]
    if not named and node.attrs.get("noop_with_empty_axes", 0):
        return
    node.attrs.pop("noop_with_empty_axes", None)
    if named:
        node.attrs["axes"] = named
    node.inputs = node.inputs[:1]


def _split(graph: Graph, node: Node) -> None:
    """Equal parts went by the number of outputs; the last may now be smaller."""
    count = node.attrs.pop("num_outputs", None)
    shape = static_shape(node.inputs[0])
    if count is None or shape is None or input_of(node, 1) is not None:
        return
    whole = shape[node.attrs.get("axis", 0)]
    part = -(-whole // count)
    sizes = np.array([*[part] * (count - 1), whole - part * (count - 1)], np.int64)
    node.inputs = [node.inputs[0], add_constant(graph, f"{node.name}_sizes", sizes)]


def _pad(graph: Graph, node: Node) -> None:
    """Pads were those of all axes."""
    rank, pads, axes = rank_of(node.inputs[0]), input_value(node, 1), input_value(node, 3)
    if axes is None or pads is None or rank is None:
        return
    every = np.zeros((2, rank), np.int64)
    every[:, [int(a) % rank for a in axes.reshape(-1)]] = pads.reshape(2, -1)
    node.inputs[1] = add_constant(graph, f"{node.name}_pads", every.reshape(-1))
    node.inputs = node.inputs[:3]


def _resize(graph: Graph, node: Node) -> None:
    """Scales and sizes were those of all axes."""
    shape, axes = static_shape(node.inputs[0]), node.attrs.get("axes")
    if axes is None or shape is None:
        return
    for index, before in ((2, np.ones(len(shape), np.float32)), (3, np.array(shape, np.int64))):
        given = input_value(node, index)
        if given is None or not given.size:
            continue
        before[[a % len(shape) for a in axes]] = given.reshape(-1)
        node.inputs[index] = add_constant(graph, f"{node.name}_all_axes", before)
    del node.attrs["axes"]


class _Arithmetic:
    """Sums and products of tensors and numbers, typed as one tensor."""

    def __init__(self, graph: Graph, like: Tensor) -> None:
        self._graph, self._like = graph, like

    def __call__(self, op: str, a: Tensor, b: Tensor | float, shape: Any = "like") -> Tensor:
        if isinstance(b, float):
            number = np.array(b, np.dtype(self._like.dtype))
            b = add_constant(self._graph, f"{self._like.name}_{op.lower()}_by", number)
        return add_node(self._graph, op, [a, b], like=self._like, shape=shape)


_RULES: dict[str, Rule] = {
    "Gelu": _gelu,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_norm,
    "Mish": _mish,
    "Pad": _pad,
    "Resize": _resize,
    "Split": _split,
    **dict.fromkeys(_REDUCTIONS, _reduction),
}
