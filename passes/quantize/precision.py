"""What rounding costs, tensor by tensor, and what to leave in float.

The effect of one rounding is the signal-to-noise ratio the outputs keep when it is the only one in
the network; one sweep measures all. Mixed precision spares the worst, all below a floor or the fewest with
which a metric stays within a limit: it leaves them in float, or gives activations 16 bits, which are 48
decibels more, where the target computes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from graphopt.errors import BudgetError
from graphopt.ir.graph import Graph, sweep
from graphopt.passes.quantize.grid import Grid
from graphopt.passes.quantize.pairs import add_grid, add_pair, pairs
from graphopt.passes.quantize.rounder import Rounder, Spared
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


def effects(
    graph: Graph, rounded: Graph, signal: Signal, *, only: Collection[str] | None = None
) -> list[Effect]:
    """The effect of every pair of a rounded graph, the worst first.

    Args:
        graph: the float network.
        rounded: it, with QuantizeLinear/DequantizeLinear pairs; both are left as they are.
        signal: the outputs of the float network on the images to measure with.
        only: names of the tensors to look at; all when left out.
    """
    from graphopt.runtime.run import open_graph

    names = {t.name for t in graph.outputs}
    found = []
    for pair in pairs(rounded):
        # What is rounded as an output has handed on its name.
        name = pair.result.name if pair.result.name in names else pair.source.name
        if only is not None and name not in only:
            continue
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


def below(
    rounder: Rounder,
    left: Spared,
    found: Sequence[Effect],
    signal: Signal,
    floor: float,
    *,
    wide: bool = False,
) -> Spared:
    """What is spared because alone it leaves less than `floor` decibels of the outputs.

    Args:
        rounder: of the float graph.
        left: what is spared anyhow.
        found: the effects.
        signal: the outputs of the float network on the images to measure with.
        floor: in decibels.
        wide: activations get 16 bits, and stay in float only where these are too few as well.
    """
    poor = [e for e in found if e.sqnr < floor]
    if not wide:
        return _left_out(poor)
    widened = _widened(poor)
    if not widened.wide:
        return _left_out(poor)
    again = effects(rounder.graph, rounder.rounded(left | widened), signal, only=widened.wide)
    out = _left_out([e for e in poor if e.is_weight] + [e for e in again if e.sqnr < floor])
    return Spared(out.nodes, out.tensors, widened.wide - out.tensors)


def fewest(
    rounder: Rounder,
    left: Spared,
    found: Sequence[Effect],
    drop: Callable[[Graph], float],
    limit: float,
    *,
    wide: bool = False,
) -> Spared:
    """The fewest of the worst roundings to spare so that `drop` stays within `limit`.

    Found by bisection over how many of them are left out, in the order of their effects. With `wide`
    the fewest stay in float with all others in 16 bits (none, mostly), and of these the fewest have 16
    bits: float is for what rounded weights alone cost.

    Args:
        rounder: of the float graph.
        left: what is spared anyhow.
        found: the effects, the worst first.
        drop: by how many points a graph is worse than the float network.
        limit: how many points may be lost.
        wide: activations may have 16 bits.

    Raises:
        BudgetError: the network is worse than that although nothing is rounded.
    """

    def lost(more: Spared) -> float:
        return drop(rounder.rounded(left | more))

    def first(ways: Sequence[Spared], bad: int) -> Spared:
        """The first within the limit; `bad` is none, and the last is one."""
        good = len(ways) - 1
        while good - bad > 1:
            middle = (bad + good) // 2
            if lost(ways[middle]) <= limit:
                good = middle
            else:
                bad = middle
        return ways[good]

    if lost(Spared()) <= limit:
        return left
    widths = [_widened(found[:k]) for k in range(len(found) + 1)] if wide else [Spared()]
    if wide and lost(widths[-1]) <= limit:
        return left | first(_different(widths), 0)
    able = rounder.place(left | widths[-1]).widened()
    costly = [e for e in found if e.is_weight or e.tensor not in able]
    ways = [_left_out(costly[:k]) | widths[-1] for k in range(len(costly) + 1)]
    if (least := lost(ways[-1])) > limit:
        raise BudgetError(
            f"{least:.2f} points are lost with everything in float, and {limit:g} are allowed"
        )
    out = replace(first(ways, 0), wide=frozenset())
    return left | first(_different([out | w for w in widths]), -1)


def _different(ways: Iterable[Spared]) -> list[Spared]:
    return list(dict.fromkeys(ways))


def _widened(found: Iterable[Effect]) -> Spared:
    return Spared(wide=frozenset(e.tensor for e in found if not e.is_weight))


def _left_out(found: Iterable[Effect]) -> Spared:
    chosen = list(found)
    return Spared(
        nodes=frozenset(n for e in chosen if e.is_weight for n in e.nodes),
        tensors=frozenset(e.tensor for e in chosen if not e.is_weight),
    )
