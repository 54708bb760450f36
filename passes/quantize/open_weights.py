"""Rounded weights whose integers can still be chosen: which they are, and how they get them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, add_constant, set_input
from graphopt.pass_base import Context
from graphopt.passes.quantize.layers import Layer
from graphopt.passes.quantize.pairs import Pair

Array = np.ndarray[Any, Any]


def by_weight(
    found: Sequence[Layer], context: Context, why_not: Callable[[Node], str | None]
) -> Iterator[list[Layer]]:
    """Layers whose integers can be chosen; those that read one rounded weight together.

    Args:
        found: products, rounded or not.
        context: told of those that are left, and why.
        why_not: what else keeps a layer from being taken.
    """
    sets: dict[int, list[Layer]] = {}
    for layer in found:
        if layer.rounding is not None:
            sets.setdefault(id(layer.rounding.quantize), []).append(layer)
    for same in sets.values():
        reason = next(filter(None, (why_not(each.node) for each in same)), None)
        pair = same[0].rounding
        assert pair is not None
        if reason is None and _is_on_grid(pair):
            reason = "its weight is on its grid already"
        if reason is None and len(pair.result.outputs) > len(same):
            reason = "its rounded weight is read by something else, too"
        if reason is None:
            yield same
            continue
        for each in same:
            context.refused(each.node, reason)


def _is_on_grid(pair: Pair) -> bool:
    return np.array_equal(pair.grid.rounded(pair.source.values), pair.source.values)


def moved(pair: Pair, integers: Array) -> int:
    """How many weights are rounded another way than to the nearest."""
    nearest = pair.grid.quantize(pair.source.values).astype(np.float32)
    return int(np.count_nonzero(integers != nearest))


def give(graph: Graph, pair: Pair, values: Array) -> None:
    """Lets a pair round other values; who else reads the weight keeps the old ones."""
    source = pair.source
    if len(source.outputs) == 1:
        source.values = values
    else:
        set_input(pair.quantize, 0, add_constant(graph, source.name, values))
