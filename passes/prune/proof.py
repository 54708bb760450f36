"""Proves a removal at run time: the pruned network against the original with the channels zeroed.

When they differ, the groups to blame are found by halving the set of groups that lose channels,
and left out of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.channels.masking import masked
from graphopt.channels.removal import remove
from graphopt.errors import GraphoptError, RunError
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import infer_shapes
from graphopt.ir.verify import verify
from graphopt.oracle import Oracle

RTOL = 1e-4


@dataclass(frozen=True)
class Proven:
    """Units whose removal was proven, the groups that were dropped, and what the check said."""

    removed: Vector
    guilty: tuple[int, ...]
    detail: str


def pruned(channels: Channels, removed: Vector) -> Graph:
    """A copy of the analyzed graph without the units in `removed`."""
    twin = channels.graph.copy()
    remove(channels.of(twin), removed)
    infer_shapes(twin)
    verify(twin)
    return twin


def prove(channels: Channels, removed: Vector, *, seed: int = 0) -> Proven:
    """Checks a removal on sample inputs; groups that break it are dropped.

    Raises:
        RunError: the original network does not run, so nothing can be proven.
    """
    wrong = _difference(channels, removed, seed)
    if wrong is None:
        return Proven(removed, (), f"equal to the masked network within {RTOL:g}")
    groups = np.unique(channels.group_of_unit[removed]).tolist()
    guilty = tuple(_guilty(channels, removed, groups, seed))
    clean = removed[~np.isin(channels.group_of_unit[removed], guilty)]
    left = _difference(channels, clean, seed)
    if left is not None:
        # Groups that break it only together: none of them can be trusted.
        return Proven(removed[:0], tuple(groups), left)
    return Proven(clean, guilty, wrong)


def _guilty(channels: Channels, removed: Vector, groups: Sequence[int], seed: int) -> list[int]:
    """The groups that by themselves break the check."""
    chosen = removed[np.isin(channels.group_of_unit[removed], groups)]
    if _difference(channels, chosen, seed) is None:
        return []
    if len(groups) == 1:
        return list(groups)
    half = len(groups) // 2
    return [
        *_guilty(channels, removed, groups[:half], seed),
        *_guilty(channels, removed, groups[half:], seed),
    ]


def _difference(channels: Channels, removed: Vector, seed: int) -> str | None:
    """What is wrong with removing these units, or None."""
    oracle = Oracle(masked(channels, removed), seed=seed)
    try:
        verdict = oracle.check(pruned(channels, removed), RTOL)
    except (RunError, GraphoptError, ValueError, IndexError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return None if verdict.passed else str(verdict)
