"""What a network costs: multiply-accumulates, parameters and bytes, per node and in total.

One MAC is one multiplication with its addition; published GFLOPs are 2 MAC. Symbolic dimensions
count as 1, so the figures are per image. Operators that are no matrix product count 0 MACs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_of, is_op


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
    rows = [node_cost(n) for n in graph.nodes]
    return Cost(
        nodes=len(graph.nodes),
        parameters=sum(_parameters(c) for c in constants),
        macs=sum(r.macs for r in rows),
        weight_bytes=sum(int(c.values.nbytes) for c in constants),
        activation_bytes=sum(r.activation_bytes for r in rows),
    )


def node_cost(node: Node) -> NodeCost:
    """What one node costs."""
    out = node.outputs[0] if node.outputs else None
    shape = None if out is None or out.shape is None else tuple(out.shape)
    return NodeCost(
        name=node.name,
        op=node.op if not node.domain else f"{node.domain}::{node.op}",
        shape=shape,
        parameters=sum(_parameters(t) for t in node.inputs if isinstance(t, Constant)),
        macs=_MACS[node.op](node) if is_op(node, *_MACS) else 0,
        activation_bytes=sum(_bytes(t) for t in node.outputs),
    )


def _constants(graph: Graph) -> list[Tensor]:
    return [t for t in graph.tensors().values() if isinstance(t, Constant)]


def _parameters(constant: Tensor) -> int:
    # Integer constants are shapes, axes and indices; quantized weights are 8 bits or fewer.
    is_index = constant.values.dtype.kind in "iub" and constant.values.dtype.itemsize >= 4
    return 0 if is_index else int(constant.values.size)


def _bytes(tensor: Tensor) -> int:
    size = _volume(tensor)
    itemsize = getattr(tensor.dtype, "itemsize", None)
    return size * int(itemsize) if itemsize else 0


def _volume(tensor: Tensor | None) -> int:
    if tensor is None or tensor.shape is None:
        return 0
    return math.prod(d if isinstance(d, int) else 1 for d in tensor.shape)


def _conv_macs(node: Node) -> int:
    return _volume(node.outputs[0]) * _taps(node.inputs[1])


def _qlinear_conv_macs(node: Node) -> int:
    return _volume(node.outputs[0]) * _taps(node.inputs[3])


def _conv_transpose_macs(node: Node) -> int:
    return _volume(node.inputs[0]) * _taps(node.inputs[1])


def _taps(weight: Tensor) -> int:
    """The multiplications per output element (per input element when transposed)."""
    sizes = weight.shape[1:] if weight.shape else [0]
    return math.prod(d if isinstance(d, int) else 1 for d in sizes)


def _gemm_macs(node: Node) -> int:
    a = node.inputs[0].shape
    if not a or len(a) != 2:
        return 0
    depth = a[0] if node.attrs.get("transA", 0) else a[1]
    return _volume(node.outputs[0]) * (depth if isinstance(depth, int) else 1)


def _matmul_macs(node: Node) -> int:
    a = input_of(node, 0)
    if a is None or not a.shape:
        return 0
    depth = a.shape[-1]
    return _volume(node.outputs[0]) * (depth if isinstance(depth, int) else 1)


_MACS: dict[str, Callable[[Any], int]] = {
    "Conv": _conv_macs,
    "ConvInteger": _conv_macs,
    "QLinearConv": _qlinear_conv_macs,
    "ConvTranspose": _conv_transpose_macs,
    "Gemm": _gemm_macs,
    "MatMul": _matmul_macs,
    "MatMulInteger": _matmul_macs,
    "QLinearMatMul": _matmul_macs,
}
