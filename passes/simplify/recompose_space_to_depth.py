"""Finds SpaceToDepth written as strided slices.

    Concat(x[:, :, i::k, j::k] for all i, j) == SpaceToDepth(x, k), its channels reordered

Where the phases stand in another order than SpaceToDepth's (YOLO's Focus), the one Conv that reads
them gets its weight reordered instead; without such a Conv a Gather reorders the channels. Not
handled: slices somebody else reads, or that do not tile the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_value,
    is_op,
    nodes_of,
    replace_uses,
    set_input,
    sole_reader,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.focus import focus_of


@dataclass(frozen=True)
class RecomposeSpaceToDepth(Pass):
    """Concat(x[:, :, i::k, j::k] for all i, j) == SpaceToDepth(x, k), its channels reordered."""

    name: ClassVar[str] = "recompose-space-to-depth"
    numerics: ClassVar[Close] = Close(rtol=1e-5)  # a reordered Conv sums in another order

    def run(self, graph: Graph, context: Context) -> None:
        for concat in nodes_of(graph, "Concat"):
            focus, reason = focus_of(graph, concat)
            if reason:
                context.refused(concat, reason)
            if focus is None:
                continue
            out, order = concat.outputs[0], focus.order
            attrs = {"blocksize": focus.block}
            made = add_node(graph, "SpaceToDepth", [focus.source], like=out, attrs=attrs)
            how = "as it is"
            if not np.array_equal(order, np.arange(order.size)):
                made, how = in_order(graph, out, made, order)
            replace_uses(graph, out, made)
            context.rewrote(concat, f"{len(focus.nodes)} nodes are one SpaceToDepth, {how}")


def in_order(
    graph: Graph, out: Tensor, made: Tensor, order: np.ndarray[Any, Any]
) -> tuple[Tensor, str]:
    """Reorders the channels of `made`, or the weight of the one Conv that reads them."""
    conv = sole_reader(graph, out)
    if conv is None or not takes_weight(conv, out):
        indices = add_constant(graph, f"{out.name}_order", order.astype(np.int64))
        gathered = add_node(graph, "Gather", [made, indices], like=out, attrs={"axis": 1})
        return gathered, "its channels gathered in the order of the slices"
    weight = conv.inputs[1].values
    reordered = np.empty_like(weight)
    reordered[:, order] = weight
    set_input(conv, 1, add_constant(graph, conv.inputs[1].name, reordered))
    return made, f"the weight of Conv {conv.name} reordered"


def takes_weight(conv: Node, tensor: Tensor) -> bool:
    """Whether `conv` is a Conv of all channels of `tensor` with a constant weight."""
    ungrouped = is_op(conv, "Conv") and int(conv.attrs.get("group", 1)) == 1
    return ungrouped and conv.inputs[0] is tensor and input_value(conv, 1) is not None
