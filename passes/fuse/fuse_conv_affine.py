"""Folds Mul, Div, Add and Sub by constants into the linear operator that feeds them.

    conv(x, w, b) * s + t == conv(x, w * s, b * s + t)

`s` and `t` are scalars or one value per output channel. `conv` is Conv, ConvTranspose, Gemm or a
MatMul of matrices (which becomes a Gemm). Not handled: constants that vary over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import (
    Graph,
    Node,
    nodes_of,
    produced_by,
    rank_of,
    sole_reader,
)
from graphopt.ir.names import take_place
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.affine import Affine, affine_of, data_input, why_not_kept
from graphopt.passes.fuse.linear import LINEAR_OPS, out_channels, scale_outputs, why_not_scalable
from graphopt.passes.simplify.constant_arithmetic import ARITHMETIC


@dataclass(frozen=True)
class FuseConvAffine(Pass):
    """conv(x, w, b) * s + t == conv(x, w*s, b*s + t), s and t constant per channel."""

    name: ClassVar[str] = "fuse-conv-affine"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *ARITHMETIC):
            linear = produced_by(data_input(node), *LINEAR_OPS)
            if linear is None:
                continue
            if reason := why_not_foldable(graph, linear, node):
                context.refused(node, reason)
                continue
            affine = affine_of(node, out_channels(linear), channel_axis(linear))
            reason = affine if isinstance(affine, str) else why_no_bias(linear, affine)
            if reason or isinstance(affine, str):
                context.refused(node, str(reason))
                continue
            scale_outputs(graph, linear, affine.scale, affine.shift)
            take_place(graph, node.outputs[0], linear.outputs[0])
            context.rewrote(node, f"{node.op} folded into {linear.op} {linear.name}")


def channel_axis(linear: Node) -> int:
    """Where the output channels of a linear operator are."""
    return 1 if linear.op in ("Conv", "ConvTranspose") else (rank_of(linear.outputs[0]) or 1) - 1


def why_not_foldable(graph: Graph, linear: Node, node: Node) -> str | None:
    """The reason the arithmetic has to stay, or None."""
    if reason := why_not_kept(linear.outputs[0], node.outputs[0]):
        return reason
    if sole_reader(graph, linear.outputs[0]) is not node:
        return f"the result of {linear.op} {linear.name} has a second reader"
    return why_not_scalable(linear)


def why_no_bias(linear: Node, affine: Affine) -> str | None:
    """The reason the operator cannot take the shift, or None."""
    if linear.op == "MatMul" and affine.shift.any() and rank_of(linear.outputs[0]) != 2:
        return "the MatMul before it has more than two dimensions, and so no bias to fold into"
    return None
