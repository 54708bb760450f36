"""Merges a 1x1 convolution into the convolution before it, when nothing stands between them.

    conv1x1(conv(x, w, b), v, c) == conv(x, v @ w, v @ b + c)

Done only where the merged convolution costs fewer multiplications than the two. Exact in real
numbers; not done where the middle has a second reader or the first convolution is grouped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.cost import node_cost
from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    nodes_of,
    produced_by,
    set_input,
    sole_reader,
)
from graphopt.ir.names import take_place
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.linear import bias_of, pads_of, set_bias, why_not_scalable

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FuseConvConv(Pass):
    """conv1x1(conv(x, w, b), v, c) == conv(x, v@w, v@b + c), where that is cheaper."""

    name: ClassVar[str] = "fuse-conv-conv"
    numerics: ClassVar[Close] = Close(rtol=1e-5)
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "a BatchNormalization between the two would hide them from each other"
    }

    def run(self, graph: Graph, context: Context) -> None:
        for second in nodes_of(graph, "Conv"):
            first = produced_by(second.inputs[0], "Conv")
            if first is None or not is_pointwise(second):
                continue
            if reason := why_not_merged(graph, first, second):
                context.refused(second, reason)
                continue
            saved = node_cost(first).macs + node_cost(second).macs
            _merge(graph, first, second)
            context.rewrote(
                second, f"merged into {first.name}, {saved - node_cost(first).macs:,} MACs fewer"
            )


def is_pointwise(conv: Node) -> bool:
    """Whether it is an ungrouped 1x1 convolution of stride 1 with constant weights and no padding."""
    weight = conv.inputs[1].shape
    return bool(
        weight is not None
        and math.prod(weight[2:]) == 1
        and int(conv.attrs.get("group", 1)) == 1
        and all(s == 1 for s in conv.attrs.get("strides", [1]))
        and not any(pads_of(conv))
    )


def why_not_merged(graph: Graph, first: Node, second: Node) -> str | None:
    """The reason the two stay apart, or None."""
    if sole_reader(graph, first.outputs[0]) is not second:
        return f"the result of Conv {first.name} has a second reader"
    if int(first.attrs.get("group", 1)) != 1:
        return f"Conv {first.name} is grouped, and the merged one would be dense"
    if reason := why_not_scalable(first) or why_not_scalable(second):
        return reason
    middle, out = first.inputs[1].shape[0], second.inputs[1].shape[0]
    taps = math.prod(first.inputs[1].shape[1:])
    if taps * out >= taps * middle + middle * out:
        apart = taps * middle + middle * out
        return f"merged, it would cost more ({taps * out} > {apart} MACs per position)"
    return None


def _merge(graph: Graph, first: Node, second: Node) -> None:
    w, v = first.inputs[1], second.inputs[1]
    mix = v.values.reshape(v.values.shape[:2]).astype(np.float64)
    merged: Array = np.tensordot(mix, w.values.astype(np.float64), axes=(1, 0))
    bias = mix @ bias_of(first) + bias_of(second)
    set_input(first, 1, add_constant(graph, v.name, merged.astype(w.values.dtype)))
    set_bias(graph, first, bias)
    first.outputs[0].shape = second.outputs[0].shape
    take_place(graph, second.outputs[0], first.outputs[0])
