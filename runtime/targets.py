"""Boards as data: how fast they can multiply and move bytes at best.

Figures are peaks of one cluster of equal cores, from the cores' published pipelines: a Cortex-A57
issues one 128-bit fused multiply-add a cycle (4 float32 MACs), a Cortex-A76 two (8); see Arm's
software optimization guides. The bandwidth is the memory's. `roofline` is the bound both give: no
program is faster, and one that is limited by neither does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import UsageError


@dataclass(frozen=True)
class Target:
    """One cluster of a board.

    Attributes:
        name: as written on the command line.
        cores: how many work together.
        gigahertz: their clock.
        macs_per_cycle: float32 multiply-accumulates of one core.
        gigabytes_per_second: peak bandwidth of the memory.
    """

    name: str
    core: str
    cores: int
    gigahertz: float
    macs_per_cycle: int
    gigabytes_per_second: float

    @property
    def macs_per_second(self) -> float:
        """The peak of the cluster."""
        return self.cores * self.gigahertz * 1e9 * self.macs_per_cycle

    def seconds(self, macs: float, bytes_moved: float) -> float:
        """max(macs / peak, bytes / bandwidth): the roofline bound on one operator."""
        return max(macs / self.macs_per_second, bytes_moved / (self.gigabytes_per_second * 1e9))


TARGETS = {
    t.name: t
    for t in (
        Target("tx2", "cortex-a57", 4, 2.035, 4, 59.7),
        Target("kirin990", "cortex-a76", 2, 2.86, 8, 34.1),
        Target("rpi4", "cortex-a72", 4, 1.5, 4, 12.8),
        Target("rpi5", "cortex-a76", 4, 2.4, 8, 17.1),
    )
}


def target(name: str) -> Target:
    """The board called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in TARGETS:
        raise UsageError(f"no target is called {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]
