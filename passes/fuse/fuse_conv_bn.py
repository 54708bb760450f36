"""Folds an inference BatchNormalization into the linear operator that feeds it.

    bn(conv(x, w, b)) == conv(x, w * s, (b - mean) * s + beta),   s = gamma / sqrt(var + eps)

`conv` is Conv, ConvTranspose (also grouped), Gemm or MatMul with constant weights. Not handled: a
BatchNormalization in training mode, and results or weights somebody else reads.
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
from graphopt.passes.fuse.affine import bn_affine, why_not_affine
from graphopt.passes.fuse.linear import LINEAR_OPS, scale_outputs, why_not_scalable


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """bn(conv(x, w, b)) == conv(x, w*s, (b - mean)*s + beta), s = gamma / sqrt(var + eps)."""

    name: ClassVar[str] = "fuse-conv-bn"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for bn in nodes_of(graph, "BatchNormalization"):
            linear = produced_by(bn.inputs[0], *LINEAR_OPS)
            if linear is None:
                continue  # nothing linear before it: no candidate (see fuse-bn-conv)
            if reason := why_not_foldable(graph, linear, bn):
                context.refused(bn, reason)
                continue
            scale, shift = bn_affine(bn)
            scale_outputs(graph, linear, scale, shift)
            take_place(graph, bn.outputs[0], linear.outputs[0])
            context.rewrote(bn, f"folded into {linear.op} {linear.name}")


def why_not_foldable(graph: Graph, linear: Node, bn: Node) -> str | None:
    """The reason the BatchNormalization has to stay, or None."""
    if reason := why_not_affine(bn):
        return reason
    if linear.op in ("Gemm", "MatMul") and rank_of(linear.outputs[0]) != 2:
        return "the product before it has no channel axis 1 (its rank is not 2)"
    if sole_reader(graph, linear.outputs[0]) is not bn:
        return f"the result of {linear.op} {linear.name} has a second reader"
    return why_not_scalable(linear)
