"""Folds a Focus, or a SpaceToDepth, into the convolution that reads it.

    conv(focus(x, k), w, pads p, stride s) == conv(x, w', pads k p, stride k s)
    w'[o, c, k i + row, k j + column] = w[o, phase(row, column) * C + c, i, j]

The same multiplications without the pass over the image that cuts it into phases. Not handled:
grouped and dilated convolutions, computed weights, automatic padding other than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    add_node,
    input_of,
    input_value,
    nodes_of,
    produced_by,
    replace_uses,
    sole_reader,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.focus import Focus, focus_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FuseFocusConv(Pass):
    """conv(focus(x, k), w, pads p, stride s) == conv(x, w', pads k*p, stride k*s)."""

    name: ClassVar[str] = "fuse-focus-conv"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for conv in nodes_of(graph, "Conv"):
            focus, reason = focus_before(graph, conv)
            reason = reason or (why_not_foldable(graph, conv) if focus is not None else None)
            if reason:
                context.refused(conv, reason)
            if focus is None or reason:
                continue
            weight = spread(conv.inputs[1].values, focus)
            inputs = [focus.source, add_constant(graph, conv.inputs[1].name, weight)]
            inputs += [] if input_of(conv, 2) is None else [conv.inputs[2]]
            attrs = spread_attributes(conv, focus.block, weight)
            made = add_node(graph, "Conv", inputs, like=conv.outputs[0], attrs=attrs)
            kernel = "x".join(str(d) for d in attrs["kernel_shape"])
            context.rewrote(conv, f"with its Focus one {kernel} Conv of stride {attrs['strides']}")
            replace_uses(graph, conv.outputs[0], made)


def focus_before(graph: Graph, conv: Node) -> tuple[Focus | None, str | None]:
    """The Focus whose result `conv` reads; or nothing and, where it is nearly one, the reason."""
    concat = produced_by(conv.inputs[0], "Concat")
    if concat is not None:
        return focus_of(graph, concat)
    node = produced_by(conv.inputs[0], "SpaceToDepth")
    if node is None:
        return None, None
    source, block = node.inputs[0], int(node.attrs["blocksize"])
    if source.shape is None or not isinstance(source.shape[1], int):
        return None, "the number of channels before SpaceToDepth is not a fixed number"
    offsets = tuple((row, column) for row in range(block) for column in range(block))
    return Focus(source, block, offsets, (node,)), None


def why_not_foldable(graph: Graph, conv: Node) -> str | None:
    """The reason a Conv cannot take the Focus before it in, or None."""
    weight = input_value(conv, 1)
    if sole_reader(graph, conv.inputs[0]) is None:
        return "the result of the Focus before it is read elsewhere too"
    if weight is None:
        return "its weight is computed at run time"
    if int(conv.attrs.get("group", 1)) != 1:
        return "it is grouped, so no filter sees all phases of the image"
    if any(d != 1 for d in conv.attrs.get("dilations", [])):
        return "it is dilated, so the phases of one pixel are not neighbours in the larger kernel"
    if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"its padding is automatic ({conv.attrs['auto_pad']})"
    return None


def spread(weight: Array, focus: Focus) -> Array:
    """The weight for the image itself: every phase at its place in the larger kernel."""
    out, _, rows, columns = weight.shape
    k = focus.block
    phases = weight.reshape(out, k * k, focus.channels, rows, columns)
    wide = np.empty((out, focus.channels, k * rows, k * columns), weight.dtype)
    for phase, (row, column) in enumerate(focus.offsets):
        wide[:, :, row::k, column::k] = phases[:, phase]
    return wide


def spread_attributes(conv: Node, block: int, weight: Array) -> dict[str, Any]:
    """The attributes of the Conv with the larger kernel."""
    return {
        "kernel_shape": list(weight.shape[2:]),
        "pads": [block * p for p in conv.attrs.get("pads", [0] * 4)],
        "strides": [block * s for s in conv.attrs.get("strides", [1] * 2)],
    }
