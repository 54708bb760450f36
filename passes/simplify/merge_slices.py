"""Merges a Slice of a Slice, and removes the Slices that take everything.

    x[a:b:c, :][:, d:e:f] == x[a:b:c, d:e:f]      x[a:b:c][d:e:f] == x[a + d*c : ... : c*f]

Not handled: computed bounds; on one axis, steps backwards and sizes that are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    bypass,
    is_op,
    is_output,
    nodes_of,
    produced_by,
    replace_uses,
)
from graphopt.pass_base import Context, Exact, Pass
from graphopt.passes.simplify.slices import OPEN_END, Range, slice_ranges


@dataclass(frozen=True)
class MergeSlices(Pass):
    """x[a:b:c, :][:, d:e:f] == x[a:b:c, d:e:f]; a Slice that takes everything == x."""

    name: ClassVar[str] = "merge-slices"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "Slice"):
            ranges = slice_ranges(node)
            if ranges is None:
                continue
            if all(takes_all(node.inputs[0].shape[a], r) for a, r in ranges):
                context.rewrote(node, "removed: it takes everything")
                bypass(graph, node)
                continue
            first = produced_by(node.inputs[0], "Slice")
            before = slice_ranges(first) if first is not None else None
            if first is None or before is None:
                continue
            source = first.inputs[0]
            merged = merge(source, dict(before), dict(ranges))
            reason = merged if isinstance(merged, str) else why_read(graph, first)
            if reason or isinstance(merged, str):
                context.refused(node, str(reason))
                continue
            context.rewrote(node, f"merged with Slice {first.name}")
            replace_uses(graph, node.outputs[0], one_slice(graph, source, merged, node))


def takes_all(size: int | str | None, bounds: Range) -> bool:
    """Whether a range certainly is the whole axis."""
    start, end, step = bounds
    known = isinstance(size, int)
    begins = start == 0 or (known and start <= -int(size or 0))
    return step == 1 and begins and (end >= OPEN_END or (known and end >= int(size or 0)))


def why_read(graph: Graph, first: Node) -> str | None:
    """The reason the first Slice would stay for others, or None."""
    out = first.outputs[0]
    if is_output(graph, out) or not all(is_op(n, "Slice") for n in out.outputs):
        return f"the result of Slice {first.name} before it is needed elsewhere"
    return None


def merge(
    source: Tensor, first: dict[int, Range], second: dict[int, Range]
) -> dict[int, Range] | str:
    """The ranges of both on the source of the first, or the reason there are none."""
    merged = {**first, **second}
    for axis in first.keys() & second.keys():
        size = source.shape[axis]
        if not isinstance(size, int):
            return f"both cut axis {axis}, whose size is not a fixed number"
        if min(first[axis][2], second[axis][2]) < 1:
            return f"both cut axis {axis}, and one of them backwards"
        merged[axis] = composed(size, first[axis], second[axis])
    return dict(sorted(merged.items()))


def composed(size: int, first: Range, second: Range) -> Range:
    """The range of x[first][second] on an axis of `size` elements; steps are positive."""
    inner = range(size)[slice(*first)]
    both = inner[slice(*second)]
    return (both.start, both[-1] + 1, both.step) if len(both) else (0, 0, 1)


def one_slice(graph: Graph, source: Tensor, ranges: dict[int, Range], like: Node) -> Tensor:
    """Adds the Slice that takes `ranges` of `source`, and returns its result."""
    out = like.outputs[0]
    columns = {"axes": list(ranges), "starts": [], "ends": [], "steps": []}
    for bounds in ranges.values():
        for name, value in zip(("starts", "ends", "steps"), bounds, strict=True):
            columns[name].append(value)
    order = ("starts", "ends", "axes", "steps")
    inputs = [add_constant(graph, f"{out.name}_{n}", np.array(columns[n], np.int64)) for n in order]
    return add_node(graph, "Slice", [source, *inputs], like=out)
