"""What a network costs: multiply-accumulates, parameters and bytes, per node and in total.

One MAC is one multiplication with its addition; published GFLOPs are 2 MAC. Symbolic dimensions
count as 1, so the figures are per image. Operators that are no matrix product count 0 MACs. In a
quantized model the activations are those of a runtime that computes in integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Constant, Graph, Node, Tensor, is_op


@dataclass(frozen=True)
class NodeCost:
    """One row of the per-layer table."""

    name: str
    op: str
    shape: tuple[int | str | None, ...] | None
    parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """The totals of a graph. `weight_bytes` counts every constant once."""

    nodes: int
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int


def cost_of(graph: Graph) -> Cost:
    """The totals of the graph."""
    constants = _constants(graph)
    return Cost(
        nodes=len(graph.nodes),
        parameters=sum([parameters_of(c) for c in constants]),
        macs=sum([_macs(n) for n in graph.nodes]),
        weight_bytes=sum([int(c.values.nbytes) for c in constants]),
        activation_bytes=sum([_held_bytes(n) for n in graph.nodes]),
    )


def node_cost(node: Node) -> NodeCost:
    """What one node costs."""
    out = node.outputs[0] if node.outputs else None
    shape = None if out is None or out.shape is None else tuple(out.shape)
    return NodeCost(
        name=node.name,
        op=node.op if not node.domain else f"{node.domain}::{node.op}",
        shape=shape,
        parameters=sum(parameters_of(t) for t in node.inputs if isinstance(t, Constant)),
        macs=_macs(node),
        activation_bytes=_held_bytes(node),
    )


def _constants(graph: Graph) -> list[Tensor]:
    read = (t for n in graph.nodes for t in n.inputs)
    given = [*graph.inputs, *graph.outputs]
    return list({t.name: t for t in [*given, *read] if isinstance(t, Constant) and t.name}.values())


def parameters_of(constant: Tensor) -> int:
    """The parameters a constant holds."""
    values = constant.values
    kind = values.dtype
    # Integer constants are shapes, axes and indices; quantized weights are 8 bits or fewer.
    is_index = kind.kind in "iub" and kind.itemsize >= 4
    return 0 if is_index else int(values.size)


def _held_bytes(node: Node) -> int:
    """Bytes of a node's results; a rounded tensor is held once, as the integers it is carried as."""
    if is_op(node, "DequantizeLinear"):
        return 0
    held = 0
    for tensor in node.outputs:
        itemsize = getattr(tensor.dtype, "itemsize", None)
        if itemsize and tensor.shape is not None and not _is_rounded_at_once(tensor):
            held += math.prod([d for d in tensor.shape if isinstance(d, int)]) * int(itemsize)
    return held


def _is_rounded_at_once(tensor: Tensor) -> bool:
    return len(tensor.outputs) == 1 and is_op(tensor.outputs[0], "QuantizeLinear")


# --- MACs as a product of dimensions ----------------------------------------------------------

# Axes of tensors whose sizes, multiplied, are the MACs of a node.
MacAxes = list[tuple[Any, int]]


def mac_axes(node: Node) -> MacAxes:
    """(tensor, axis) for every factor of the node's MACs; empty when it has none."""
    rule = _MACS.get(node.op)
    return rule(node) if rule is not None and is_op(node, node.op) else []


def _macs(node: Node) -> int:
    axes = mac_axes(node)
    return math.prod([_dim(t.shape[a]) for t, a in axes]) if axes else 0


def _dim(dim: Any) -> int:
    return dim if isinstance(dim, int) else 1


def _all(tensor: Tensor | None, first: int = 0) -> MacAxes:
    if tensor is None or tensor.shape is None:
        raise _UnknownShapeError
    return [(tensor, axis) for axis in range(first, len(tensor.shape))]


class _UnknownShapeError(Exception):
    """A tensor of unknown rank: nothing can be counted."""


def _of(*parts: Callable[[Node], MacAxes]) -> Callable[[Node], MacAxes]:
    def axes(node: Node) -> MacAxes:
        try:
            return [factor for part in parts for factor in part(node)]
        except _UnknownShapeError:
            return []

    return axes


def _output(node: Node) -> MacAxes:
    return _all(node.outputs[0])


def _input(node: Node) -> MacAxes:
    return _all(node.inputs[0])


def _taps(weight: int) -> Callable[[Node], MacAxes]:
    """All axes but the first of a weight: the multiplications per element."""
    return lambda node: _all(node.inputs[weight], 1)


def _depth(node: Node) -> MacAxes:
    """The axis a product sums over."""
    a = node.inputs[0]
    if not a.shape or (node.op == "Gemm" and len(a.shape) != 2):
        raise _UnknownShapeError
    transposed = node.op == "Gemm" and node.attrs.get("transA", 0)
    return [(a, 0 if transposed else len(a.shape) - 1)]


_MACS: dict[str, Callable[[Any], MacAxes]] = {
    "Conv": _of(_output, _taps(1)),
    "ConvInteger": _of(_output, _taps(1)),
    "QLinearConv": _of(_output, _taps(3)),
    "ConvTranspose": _of(_input, _taps(1)),
    "Gemm": _of(_output, _depth),
    "MatMul": _of(_output, _depth),
    "MatMulInteger": _of(_output, _depth),
    "QLinearMatMul": _of(_output, _depth),
}
