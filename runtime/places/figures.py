"""What measuring found out, wherever it was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.runtime.native import Layer


@dataclass(frozen=True)
class Times:
    """Milliseconds of whole runs, and of each layer in profiled ones (empty where there are none)."""

    median: float
    least: float
    runs: int
    threads: int
    layers: Sequence[Layer] = ()


@dataclass(frozen=True)
class CountedLayer:
    """What one step executed on one thread.

    Attributes:
        cycles: an estimate with all data in the first cache; None without llvm-mca.
        limit: cycles the core's multipliers need for its multiply-accumulates.
    """

    name: str
    macs: int
    instructions: int
    cycles: float | None
    limit: float


@dataclass(frozen=True)
class Counts:
    """What a run executed in an emulator; no time on a board.

    Attributes:
        core: whose instructions and whose cycles.
        estimator: what the cycles are from; or why there are none.
    """

    core: str
    layers: Sequence[CountedLayer]
    estimator: str

    @property
    def instructions(self) -> int:
        """Of all layers."""
        return sum(v.instructions for v in self.layers)

    @property
    def cycles(self) -> float | None:
        """Of all layers; None where they were not estimated."""
        known = [v.cycles for v in self.layers if v.cycles is not None]
        return sum(known) if len(known) == len(self.layers) else None

    @property
    def limit(self) -> float:
        """Cycles for the multiply-accumulates of all layers."""
        return sum(v.limit for v in self.layers)
