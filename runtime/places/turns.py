"""Times engines in turns on this machine: blocks of runs, each engine alone.

Machines are shared and noisy: a slow minute should hit everyone alike. One engine at a time, because
threads that wait for work by spinning do so on the cores of whoever is next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.runtime.run import Feeds, Runner

_TURNS = 4
_WARM, _LEAST_RUNS = 2, 5


@dataclass(frozen=True)
class Timed:
    """Seconds of one engine: the median of each of its blocks, the least run, how many there were."""

    blocks: Sequence[float]
    least: float
    runs: int

    @property
    def median(self) -> float:
        """Of the blocks."""
        return statistics.median(self.blocks)


def in_turns(
    openers: Sequence[Callable[[], Runner]], feeds: Sequence[Feeds], seconds: float
) -> list[Timed]:
    """Times engines in turns.

    Args:
        openers: make the engines anew for each of their blocks.
        feeds: the inputs of each.
        seconds: of measuring, for each.
    """
    blocks: list[list[list[float]]] = [[] for _ in openers]
    for turn in range(_TURNS):
        order = range(len(openers)) if turn % 2 == 0 else reversed(range(len(openers)))
        for i in order:
            blocks[i].append(_block(openers[i](), feeds[i], seconds / _TURNS))
    return [
        Timed([statistics.median(b) for b in each], min(map(min, each)), sum(map(len, each)))
        for each in blocks
    ]


def ratio(first: Timed, second: Timed) -> float:
    """How often `second` fits into the time of `first`: the median over neighbouring blocks."""
    return statistics.median(a / b for a, b in zip(first.blocks, second.blocks, strict=True))


def _block(runner: Runner, feeds: Feeds, seconds: float) -> list[float]:
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < _WARM + _LEAST_RUNS:
        started = time.perf_counter()
        runner.run(feeds)
        times.append(time.perf_counter() - started)
    return times[_WARM:]
