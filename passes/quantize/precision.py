"""What rounding costs, tensor by tensor, and what to leave in float.

The effect of one rounding is the signal-to-noise ratio the outputs keep when it is the only one in
the network; one sweep measures all. Mixed precision leaves the worst in float: all below a floor, or
the fewest with which a metric stays within a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graphopt.errors import BudgetError
from graphopt.ir.graph import Graph, sweep
from graphopt.passes.quantize.grid import Grid
from graphopt.passes.quantize.pairs import add_grid, add_pair, pairs
from graphopt.passes.quantize.rounder import Float, Rounder
from graphopt.passes.quantize.signal import Signal, worst


@dataclass(frozen=True)
class Effect:
    """One rounding alone.

    Attributes:
        tensor: what is rounded: an activation or a weight.
        nodes: who reads it rounded.
        is_weight: which of the two.
        sqnr: decibels the worst output keeps.
    """

    tensor: str
    nodes: tuple[str, ...]
    is_weight: bool
    sqnr: float


def effects(graph: Graph, rounded: Graph, signal: Signal) -> list[Effect]:
    """The effect of every pair of a rounded graph, the worst first.

    Args:
        graph: the float network.
        rounded: it, with QuantizeLinear/DequantizeLinear pairs; both are left as they are.
        signal: the outputs of the float network on the images to measure with.
    """
    from graphopt.runtime.run import open_graph

    names = {t.name for t in graph.outputs}
    found = []
    for pair in pairs(rounded):
        # What is rounded as an output has handed on its name.
        name = pair.result.name if pair.result.name in names else pair.source.name
        readers = [n.name for n in pair.result.outputs]
        alone = _with_only(graph, name, readers, pair.grid)
        kept = worst(signal.of(open_graph(alone)))
        found.append(Effect(name, tuple(readers), pair.is_weight, kept))
    return sorted(found, key=lambda e: e.sqnr)


def _with_only(graph: Graph, name: str, readers: list[str], grid: Grid) -> Graph:
    twin = graph.copy()
    tensor = twin.tensors()[name]
    nodes = [n for n in tensor.outputs if n.name in readers]
    add_pair(twin, tensor, add_grid(twin, name, grid), nodes or None)
    sweep(twin)
    return twin


def below(found: Iterable[Effect], floor: float) -> Float:
    """What alone leaves less than `floor` decibels of the outputs."""
    return _left_out(e for e in found if e.sqnr < floor)


def fewest(
    rounder: Rounder,
    left: Float,
    found: list[Effect],
    drop: Callable[[Graph], float],
    limit: float,
) -> Float:
    """The fewest of the worst roundings to leave out so that `drop` stays within `limit`.

    Found by bisection over how many of them are left out, in the order of their effects.

    Args:
        rounder: of the float graph.
        left: what stays in float anyhow.
        found: the effects, the worst first.
        drop: by how many points a graph is worse than the float network.
        limit: how many points may be lost.

    Raises:
        BudgetError: the network is worse than that although nothing is rounded.
    """

    def tried(count: int) -> Float:
        return left | _left_out(found[:count])

    few, many = -1, len(found)  # `few` is too few
    if drop(rounder.rounded(tried(0))) <= limit:
        return tried(0)
    few = 0
    lost = drop(rounder.rounded(tried(many)))
    if lost > limit:
        raise BudgetError(
            f"{lost:.2f} points are lost with everything in float, and {limit:g} are allowed"
        )
    while many - few > 1:
        middle = (few + many) // 2
        if drop(rounder.rounded(tried(middle))) <= limit:
            many = middle
        else:
            few = middle
    return tried(many)


def _left_out(found: Iterable[Effect]) -> Float:
    chosen = list(found)
    return Float(
        nodes=frozenset(n for e in chosen if e.is_weight for n in e.nodes),
        tensors=frozenset(e.tensor for e in chosen if not e.is_weight),
    )
