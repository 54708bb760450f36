"""Keeps Winograd's transformed weights within a limit, at the least cost in time.

F(m, 3) holds (m + 2)^2 / 9 times a layer's weights in memory for as long as the network is loaded. Where
all of them are more than they may be, the layers that lose the fewest cycles for every byte get a smaller
m, or a direct convolution, which holds none.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.kernels.winograd import WinogradWeight
from graphopt.runtime.lower import choose
from graphopt.runtime.lower.choose import Direct, Shape, Winograd

Way = Direct | Winograd
_WAYS = 40  # of each shape that are looked at: every m is among them


def lasting_bytes(machine: Machine, shape: Shape, way: Way) -> int:
    """What a layer's transformed weights take."""
    if isinstance(way, Direct):
        return 0
    tiles = -(-shape.blocks // way.vectors)
    return WinogradWeight(machine, way.m, shape.depth, tiles, way.vectors).size * machine.width


def within(
    machine: Machine,
    counts: Mapping[Shape, int],
    limit: int,
    tuned: Mapping[Shape, Way] | None = None,
) -> dict[Shape, Way]:
    """How to compute convolutions so that all transformed weights take at most `limit` bytes.

    Args:
        machine: the processor.
        counts: how many layers (with weights of their own) of each shape there are.
        limit: bytes; 0 for none at all.
        tuned: how to compute those about which more is known than the model says.
    """
    chosen = {s: (tuned or {}).get(s) or choose.conv(machine, s) for s in counts}
    ways = {s: choose.ways(machine, s, _WAYS) for s in counts if s.suits_winograd}

    def taken(shape: Shape, way: Way) -> int:
        return counts[shape] * lasting_bytes(machine, shape, way)

    while (total := sum(taken(s, w) for s, w in chosen.items())) > limit:
        steps = [
            (counts[s] * (w.cycles - chosen[s].cycles) / saved, saved, s, w)
            for s, found in ways.items()
            for w in found
            if (saved := taken(s, chosen[s]) - taken(s, w)) > 0
        ]
        # The cheapest byte; of what costs as little, what is left over least.
        _, _, shape, way = min(steps, key=lambda t: (t[0], abs(total - t[1] - limit)))
        chosen[shape] = way
    return chosen
