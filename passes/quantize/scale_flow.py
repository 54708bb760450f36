"""How a positive scale per channel moves through a network, and what has to change with it.

Every channel that a linear operator makes gets a label: a positive number s by which the channel is
divided. An operator that is positively homogeneous (f(x / s) == f(x) / s, as Relu and pooling are)
hands labels on; an addition makes the labels of its operands one; what is neither (Sigmoid,
Softmax, an output of the model) holds them at 1. The next linear operator takes the labels in:

    y = w x + b,  x' = x / s,  y' = y / t   :   w' = w * s / t,   b' = b / t

so that any choice of the labels that are not held leaves the outputs as they are. The labels of a
tensor are an integer array of its rank whose axes are 1 long or as long as the tensor's: reshaping,
cutting and joining them is what numpy does. No array stands for a scale of 1.

Grouped and transposed convolutions, weights and biases that are read in several places, residual
additions and concatenations are followed. Not followed: subgraphs, and operators without a row in
`graphopt.passes.quantize.scale_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphopt.channels.labels import KEPT, Labels, Reason, Vector
from graphopt.ir.graph import (
    STANDARD_DOMAINS,
    Graph,
    Node,
    Tensor,
    input_of,
    input_value,
    is_op,
    label,
    outer_inputs,
    rank_of,
    subgraphs,
    value_of,
)
from graphopt.passes.fuse.linear import LINEAR_OPS, out_channels

Array: TypeAlias = "np.ndarray[Any, Any]"
# The labels of a tensor: of its rank, every axis 1 long or as long as the tensor's; None: scale 1.
Marks: TypeAlias = "Vector | None"

_TYPES = ("float32", "float64")


@dataclass(frozen=True)
class Linear:
    """A weight, the linear operators that read it, and the labels on its two sides."""

    nodes: list[Node]
    ins: Vector  # (channels in,)
    outs: Vector  # (channels out,)

    @property
    def values(self) -> Array:
        """The weight."""
        return self.nodes[0].inputs[1].values


@dataclass(frozen=True)
class Offset:
    """A constant input that is added or compared, and so divided by the scales of what it meets."""

    node: Node
    index: int
    marks: Vector


@dataclass(frozen=True)
class Bounded:
    """A Clip to [0, bound] that a scale per channel turns into a Relu and a Min."""

    node: Node
    bound: float
    marks: Vector


class Flow:
    """The labels of a graph's tensors, and every constant that depends on them.

    Attributes:
        labels: which labels are one, and which are held at 1 and why.
        linears: in the order of the graph.
        offsets, bounded: what else changes with the scales.
    """

    def __init__(self, graph: Graph, *, bound_channels: bool = False) -> None:
        """Follows every node.

        Args:
            graph: in normal form; left as it is.
            bound_channels: whether a Clip to [0, c] may get a bound per channel.
        """
        self.labels = Labels()
        self.bound_channels = bound_channels
        self.offsets: list[Offset] = []
        self.bounded: list[Bounded] = []
        self._marks: dict[int, Marks] = {}
        self._linears: dict[int, Linear] = {}
        for node in graph.nodes:
            self._visit(node)
        for tensor in graph.outputs:
            self.hold(self.of(tensor), tensor.name, f"{tensor.name!r} is an output of the model")
        self._hold_shared_weights()

    @property
    def linears(self) -> list[Linear]:
        """Every weight once."""
        return list(self._linears.values())

    # --- for rules ------------------------------------------------------------------------------

    def of(self, tensor: Tensor | None) -> Marks:
        """The labels of a tensor."""
        return None if tensor is None else self._marks.get(id(tensor))

    def give(self, node: Node, marks: Marks, index: int = 0) -> None:
        """The labels of a node's output."""
        self._marks[id(node.outputs[index])] = marks

    def hold(self, marks: Marks, where: Node | str, why: str) -> None:
        """The scales in `marks` are 1, for the reason given."""
        if marks is not None:
            at = where if isinstance(where, str) else label(where)
            self.labels.freeze(marks.reshape(-1), Reason(at, why))

    def hold_inputs(self, node: Node, why: str) -> None:
        """Everything the node reads keeps its scale of 1."""
        for tensor in node.inputs:
            self.hold(self.of(tensor), node, why)

    def unite(self, node: Node, *operands: Vector) -> Vector:
        """Operands that broadcast have the same scales; the labels of the result."""
        wide = np.broadcast_arrays(*operands)
        first = np.ascontiguousarray(wide[0])
        for each in wide[1:]:
            self.labels.unite(first.reshape(-1), each.reshape(-1).copy(), label(node))
        return first

    # --- nodes ----------------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        if subgraphs(node):
            for tensor in outer_inputs(node):
                self.hold(self.of(tensor), node, "it is read in a subgraph")
            return
        if is_op(node, *LINEAR_OPS):
            self._linear(node)
            return
        if all(self.of(t) is None for t in node.inputs):
            return
        # Rules are found here and not at import: their module imports this one.
        from graphopt.passes.quantize.scale_rules import rule_for

        rule = rule_for(node)
        if rule is None:
            name = node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op}"
            self.hold_inputs(node, f"{name} is not known to be positively homogeneous")
        else:
            rule(self, node)

    def _linear(self, node: Node) -> None:
        reason = _why_not_linear(node)
        if reason is not None:
            self.hold_inputs(node, reason)
            return
        outs = self.labels.fresh(out_channels(node))
        ins = self._contracted(node)
        weight = node.inputs[1]
        known = self._linears.get(id(weight))
        if known is None:
            self._linears[id(weight)] = Linear([node], ins, outs)
        elif _layout(known.nodes[0]) != _layout(node):
            why = f"its weight {weight.name!r} is laid out in two ways"
            for marks in (ins, outs, known.ins, known.outs):
                self.hold(marks, node, why)
        else:
            # One weight, one scaling: its places have the same scales on both sides.
            self.labels.unite(known.ins, ins, label(node))
            self.labels.unite(known.outs, outs, label(node))
            known.nodes.append(node)
        axis = 1 if node.op.startswith("Conv") else -1
        rank = rank_of(node.outputs[0]) or 0
        shape = [len(outs) if a == axis % rank else 1 for a in range(rank)]
        self.give(node, outs.reshape(shape))
        if input_of(node, 2) is not None:
            self.offsets.append(Offset(node, 2, outs))

    def _contracted(self, node: Node) -> Vector:
        """The labels along the axis a linear operator sums over; 0 where its input has none."""
        weight = node.inputs[1].shape
        count = int(weight[0])
        if node.op == "Conv":
            count = int(weight[1]) * int(node.attrs.get("group", 1))
        elif node.op == "Gemm" and node.attrs.get("transB", 0):
            count = int(weight[1])
        marks = self.of(node.inputs[0])
        if marks is None:
            return np.full(count, KEPT, np.int64)
        axis = 1 if node.op.startswith("Conv") else marks.ndim - 1
        if marks.size != marks.shape[axis]:
            self.hold(marks, node, f"{node.op} sums over positions whose scales differ")
            return np.full(count, KEPT, np.int64)
        return np.broadcast_to(marks.reshape(-1), (count,)).copy()

    def _hold_shared_weights(self) -> None:
        """Holds what goes through weights that others than linear operators read too."""
        for each in self._linears.values():
            weight = each.nodes[0].inputs[1]
            others = [r for r in weight.outputs if not any(r is n for n in each.nodes)]
            if others or len(weight.outputs) != len(each.nodes):
                reader = others[0] if others else each.nodes[0]
                why = f"the weight {weight.name!r} is read by {reader.op} {label(reader)} otherwise"
                self.hold(each.ins, each.nodes[0], why)
                self.hold(each.outs, each.nodes[0], why)


def _layout(node: Node) -> tuple[object, ...]:
    attrs = node.attrs
    kind = "matrix" if node.op == "MatMul" else node.op
    if node.op == "Gemm" and not attrs.get("transB", 0):
        kind = "matrix"
    return kind, attrs.get("group", 1)


def _why_not_linear(node: Node) -> str | None:
    """Why the scales of the operator's two sides cannot go into its weight, or None."""
    values = input_value(node, 1)
    if values is None:
        return f"the weight of {node.op} {label(node)} is computed at run time"
    if input_of(node, 2) is not None and value_of(input_of(node, 2)) is None:
        return f"the bias of {node.op} {label(node)} is computed at run time"
    if str(values.dtype) not in _TYPES:
        return f"weights of type {values.dtype} would be rounded again"
    if not np.isfinite(values).all():
        return f"the weight of {node.op} {label(node)} holds values that are not finite"
    if rank_of(node.inputs[0]) is None or rank_of(node.outputs[0]) is None:
        return f"{node.op} {label(node)} works on a tensor of unknown rank"
    if node.op == "MatMul" and (values.ndim != 2 or (rank_of(node.inputs[0]) or 0) < 2):
        return f"MatMul {label(node)} is no product with a constant matrix"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return f"Gemm {label(node)} reads its input transposed"
    return None
