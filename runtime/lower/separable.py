"""Which networks compute every image of a batch by itself, operator by operator (default deny)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    input_of,
    input_value,
    is_op,
    static_shape,
)
from graphopt.runtime.lower.fuse import BINARY, UNARY

Batched = set[int]  # ids of tensors whose first axis is the batch


def separated(graph: Graph, count: int) -> set[str] | None:
    """The names of all tensors that have the batch for their first axis, or None where images meet.

    Shapes that are constants of the graph are changed to those of one image.
    """
    batched = {id(t) for t in graph.inputs}
    names = {t.name for t in graph.inputs}
    for node in list(graph.nodes):
        if not any(id(t) in batched for t in node.inputs):
            continue
        rule = _RULES.get(node.op) if is_op(node, node.op) else None
        if rule is None or not rule(node, batched) or not all(_has(t, count) for t in node.outputs):
            return None
        if is_op(node, "Reshape", "Resize") and not _is_told_of_one(graph, node):
            return None
        batched |= {id(t) for t in node.outputs}
        names |= {t.name for t in node.outputs}
    return names if all(id(t) in batched for t in graph.outputs) else None


def _has(tensor: Tensor, count: int) -> bool:
    return tensor.is_empty() or (static_shape(tensor) or (0,))[:1] == (count,)


def _is_told_of_one(graph: Graph, node: Node) -> bool:
    """Makes the shape a node is told, whose result has the batch, that of one image."""
    index = 1 if node.op == "Reshape" else 3
    told = input_value(node, index)
    if told is None:
        return node.op == "Resize" and input_of(node, index) is None
    first = int(told.reshape(-1)[0])
    if first in (0, -1):
        return node.op == "Reshape"
    node.inputs[index] = add_constant(
        graph, f"{node.inputs[index].name}_of_one", np.array([1, *told.reshape(-1)[1:]], told.dtype)
    )
    return True


# --- rules: whether a node that is given batches keeps their images apart -------------------------------


def _first_alone(node: Node, batched: Batched) -> bool:
    """Its first input has the batch, no other."""
    return id(node.inputs[0]) in batched and not any(id(t) in batched for t in node.inputs[1:])


def _broadcast(node: Node, batched: Batched) -> bool:
    rank = len(static_shape(node.outputs[0]) or ())
    for tensor in node.inputs:
        shape = static_shape(tensor)
        if shape is None:
            return False
        if id(tensor) in batched:
            if len(shape) != rank:
                return False
        elif len(shape) == rank and shape[0] != 1:
            return False
    return True


def _dense(node: Node, batched: Batched) -> bool:
    bias = static_shape(input_of(node, 2))
    is_row = bias is None or len(bias) < 2 or bias[0] == 1
    return _first_alone(node, batched) and not node.attrs.get("transA", 0) and is_row


def _matmul(node: Node, batched: Batched) -> bool:
    a, b = (static_shape(t) for t in node.inputs)
    if a is None or b is None or id(node.inputs[0]) not in batched or len(a) < 2:
        return False
    if id(node.inputs[1]) in batched:
        return len(a) == len(b) > 2
    return len(b) == 2


def _reshape(node: Node, batched: Batched) -> bool:
    """Row by row: what has the batch before and after has every image's values in their order."""
    return _first_alone(node, batched)


def _along(default: int) -> Callable[[Node, Batched], bool]:
    def rule(node: Node, batched: Batched) -> bool:
        rank = len(static_shape(node.inputs[0]) or ())
        apart = rank > 0 and int(node.attrs.get("axis", default)) % rank != 0
        return apart and _first_alone(node, batched)

    return rule


def _concat(node: Node, batched: Batched) -> bool:
    rank = len(static_shape(node.outputs[0]) or ())
    together = all(id(t) in batched for t in node.inputs)
    return rank > 0 and together and int(node.attrs["axis"]) % rank != 0


def _transpose(node: Node, batched: Batched) -> bool:
    return next(iter(node.attrs.get("perm", [1]))) == 0 and _first_alone(node, batched)


def _slice(node: Node, batched: Batched) -> bool:
    rank, starts, axes = (
        len(static_shape(node.inputs[0]) or ()),
        input_value(node, 1),
        input_value(node, 3),
    )
    if not rank or starts is None or axes is None:
        return False
    return _first_alone(node, batched) and all(int(a) % rank != 0 for a in axes.reshape(-1))


def _reduce(node: Node, batched: Batched) -> bool:
    rank, told = len(static_shape(node.inputs[0]) or ()), input_value(node, 1)
    axes = node.attrs.get("axes", [] if told is None else told.reshape(-1).tolist())
    apart = bool(axes) and rank > 0 and all(int(a) % rank != 0 for a in axes)
    return apart and _first_alone(node, batched)


def _pad(node: Node, batched: Batched) -> bool:
    pads, axes = input_value(node, 1), input_value(node, 3)
    rank = len(static_shape(node.inputs[0]) or ())
    if pads is None or not rank or (input_of(node, 3) is not None and axes is None):
        return False
    order = range(rank) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    around = pads.reshape(2, -1)
    return _first_alone(node, batched) and not any(
        around[:, i].any() for i, a in enumerate(order) if a == 0
    )


def _rounding(node: Node, batched: Batched) -> bool:
    scale = input_value(node, 1)
    by_image = scale is None or (scale.size > 1 and int(node.attrs.get("axis", 1)) == 0)
    return not by_image and _first_alone(node, batched)


_RULES: dict[str, Callable[[Node, Batched], bool]] = {
    **dict.fromkeys(UNARY, _first_alone),
    **dict.fromkeys((*BINARY, "Where", "Equal", "Greater", "Less"), _broadcast),
    **dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool"), _first_alone),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "Resize"), _first_alone),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _first_alone),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "Cast", "LRN"), _first_alone),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _rounding),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"), _reduce),
    "Gemm": _dense,
    "MatMul": _matmul,
    "Softmax": _along(-1),
    "LogSoftmax": _along(-1),
    "Split": _along(0),
    "Gather": _along(0),
    "Concat": _concat,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
}
