"""Reads what a Slice with constant bounds takes."""

from __future__ import annotations

from typing import TypeAlias

from graphopt.ir.graph import Node, input_of, input_value, rank_of

Range: TypeAlias = "tuple[int, int, int]"  # start, end, step as written

# Exporters write "to the end" as the largest int32 or int64, or something close to them.
OPEN_END = 2**31 - 2


def slice_ranges(node: Node) -> list[tuple[int, Range]] | None:
    """(axis, (start, end, step)) for every axis a Slice cuts, or None when they are computed."""
    starts, ends = input_value(node, 1), input_value(node, 2)
    axes, steps = input_value(node, 3), input_value(node, 4)
    rank = rank_of(node.inputs[0])
    if starts is None or ends is None or rank is None:
        return None
    if (axes is None and input_of(node, 3)) or (steps is None and input_of(node, 4)):
        return None
    count = starts.size
    where = range(count) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    pace = [1] * count if steps is None else [int(s) for s in steps.reshape(-1)]
    return [
        (axis, (int(start), int(end), step))
        for axis, start, end, step in zip(where, starts, ends, pace, strict=True)
    ]
