"""What share of a processor's peak our kernels reach, by kind of product.

The roofline of `Target.seconds` says what no program can beat. What ours take is told by the shares of
the peak that were counted on the board's core (board files, [efficiency]; `python -m
benchmarks.efficiency` counts them): Winograd's algorithm needs fewer multiply-accumulates than a 3x3
convolution has, so that shares above 1 are possible, and a depthwise one leaves most multipliers idle.
"""

from __future__ import annotations

from math import prod

from graphopt.ir.cost import node_cost
from graphopt.ir.graph import Node, Tensor, static_shape
from graphopt.runtime.board import Target

KINDS = ("conv3x3", "conv1x1", "conv", "depthwise", "dense")


def kind_of(node: Node) -> str:
    """The kind of a node's product; empty for one that has none."""
    if node.op in ("Gemm", "MatMul"):
        return "dense"
    if node.op == "ConvTranspose":
        return "conv"
    shape = static_shape(node.inputs[1]) if node.op == "Conv" else None
    if shape is None:
        return ""
    groups = int(node.attrs.get("group", 1))
    if groups > 1 and shape[1] == 1:
        return "depthwise"
    window, strides = tuple(shape[2:]), set(node.attrs.get("strides", (1,)))
    if all(side == 1 for side in window):
        return "conv1x1"
    spread = set(node.attrs.get("dilations", (1,)))
    plain = groups == 1 and strides == spread == {1} and shape[1] > 4
    return "conv3x3" if plain and window == (3, 3) else "conv"


def node_seconds(target: Target, node: Node) -> float:
    """What a node of known shapes is predicted to take, every tensor moved once; see layer_seconds."""
    tensors = {id(t): t for t in [*node.inputs, *node.outputs]}.values()
    moved = sum(prod(static_shape(t) or (0,)) * _itemsize(t) for t in tensors)
    return layer_seconds(target, kind_of(node), node_cost(node).macs, moved)


def _itemsize(tensor: Tensor) -> int:
    return int(getattr(tensor.dtype, "itemsize", 0) or 0)


def layer_seconds(target: Target, kind: str, macs: float, bytes_moved: float) -> float:
    """max(macs / (peak * share), bytes / bandwidth): what a layer is predicted to take.

    Args:
        target: the board.
        kind: of `KINDS`; empty for a layer without a product.
        macs: multiply-accumulates.
        bytes_moved: of what it reads and writes.
    """
    return target.seconds(macs / share_of(target, kind), bytes_moved)


def share_of(target: Target, kind: str) -> float:
    """Of the peak in float32; 1, the roofline's, for what was not counted."""
    return target.efficiency.get(kind, 1.0)
