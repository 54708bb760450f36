"""Folds a scale and shift per channel into the linear operator that reads it.

    conv(x * s + t, w, b) == conv(x, w * s, b + sum(w * t))      s, t per input channel

The scale and shift are a BatchNormalization or arithmetic with constants (an input normalisation,
say). Exact with a shift only where the convolution does not pad: it pads with zeros, and zeros are
what it would have seen after the shift, not before. Not handled: ConvTranspose, whose border
outputs sum fewer taps than the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    input_of,
    is_op,
    nodes_of,
    rank_of,
    replace_uses,
    set_input,
    sole_reader,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.affine import AFFINE_OPS, Affine, affine_of, data_input, why_not_kept
from graphopt.passes.fuse.linear import LINEAR_OPS, bias_of, pads_of, set_bias, why_not_scalable

Array = np.ndarray[Any, Any]
_READERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class FuseAffineConv(Pass):
    """conv(x*s + t, w, b) == conv(x, w*s, b + sum(w*t)), where conv does not pad or t == 0."""

    name: ClassVar[str] = "fuse-affine-conv"
    numerics: ClassVar[Close] = Close(rtol=1e-5)
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "a BatchNormalization between two convolutions folds exactly into the first"
    }

    def run(self, graph: Graph, context: Context) -> None:
        # Last first: in a chain of arithmetic, only the last one stands before the convolution.
        for node in reversed(list(nodes_of(graph, *AFFINE_OPS))):
            linear = sole_reader(graph, node.outputs[0])
            if not is_op(linear, *LINEAR_OPS) or linear.inputs[0] is not node.outputs[0]:
                continue
            if reason := why_not_readable(linear, node):
                context.refused(node, reason)
                continue
            affine = affine_of(node, in_channels(linear), _in_axis(linear))
            reason = affine if isinstance(affine, str) else why_not_exact(linear, affine)
            if reason or isinstance(affine, str):
                context.refused(node, str(reason))
                continue
            _fold(graph, linear, affine)
            replace_uses(graph, node.outputs[0], affine.data)
            context.rewrote(node, f"{node.op} folded into {linear.op} {linear.name}")


def why_not_readable(linear: Node, node: Node) -> str | None:
    """The reason the reader's weights cannot take it, or None."""
    if linear.op not in _READERS:
        return "a ConvTranspose sums fewer taps at its borders than inside"
    data = data_input(node)
    if data is None:
        return "both its operands are computed"
    if reason := why_not_kept(data, node.outputs[0]):
        return reason
    if linear.op == "Gemm" and linear.attrs.get("transA", 0):
        return "the Gemm transposes its input"
    return why_not_scalable(linear)


def why_not_exact(linear: Node, affine: Affine) -> str | None:
    """The reason folding would change border values, or None."""
    if not affine.shift.any():
        return None
    if linear.op == "MatMul" and rank_of(linear.outputs[0]) != 2:
        return "the MatMul has more than two dimensions, and so no bias to fold into"
    if linear.op != "Conv":
        return None
    if linear.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(pads_of(linear)):
        return "the convolution pads with zeros, which the shift would have to reach as well"
    return None


def in_channels(linear: Node) -> int:
    """How many input channels the operator reads."""
    weight = linear.inputs[1].values
    if linear.op == "Conv":
        return int(weight.shape[1]) * int(linear.attrs.get("group", 1))
    return int(weight.shape[1 if linear.attrs.get("transB", 0) else 0])


def _in_axis(linear: Node) -> int:
    return 1 if linear.op == "Conv" else (rank_of(linear.inputs[0]) or 2) - 1


def _fold(graph: Graph, linear: Node, affine: Affine) -> None:
    weight = linear.inputs[1]
    wide = weight.values.astype(np.float64)
    bias = bias_of(linear)
    if linear.op == "Conv":
        groups = int(linear.attrs.get("group", 1))
        # (out, in/group, k...): output channel o of group g reads inputs g*in/group onwards
        per_out = np.repeat(affine.scale.reshape(groups, -1), wide.shape[0] // groups, axis=0)
        shift = np.repeat(affine.shift.reshape(groups, -1), wide.shape[0] // groups, axis=0)
        bias = bias + (wide.reshape(*wide.shape[:2], -1).sum(-1) * shift).sum(1)
        wide = wide * per_out.reshape(*per_out.shape, *([1] * (wide.ndim - 2)))
    else:
        rows = 1 if linear.attrs.get("transB", 0) else 0
        product = np.tensordot(affine.shift, wide, axes=(0, rows))
        bias = bias + float(linear.attrs.get("alpha", 1.0)) * product
        wide = wide * (affine.scale if rows else affine.scale[:, None])
    set_input(linear, 1, add_constant(graph, weight.name, wide.astype(weight.values.dtype)))
    if affine.shift.any() or input_of(linear, 2) is not None:
        set_bias(graph, linear, bias)
