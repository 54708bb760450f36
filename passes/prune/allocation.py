"""Who goes first: every unit gets a time between 0 and 1, and pruning to a budget moves one clock.

uniform     time = rank within the group / size of the group: every group loses the same share
global      time = rank among all units by normalized score: weak groups lose more
isomorphic  time = rank within all groups of the same structure (Fang et al., "Isomorphic
            Pruning for Vision Models", ECCV 2024): scores are compared only where they mean
            the same
shares      time = rank within the section / (size of the section * its share): sections lose
            shares in a given proportion (system 2: sections by feature scale and module)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.errors import UsageError
from graphopt.ir.graph import label

Times = Any  # float64 array (unit_count,): small goes first, infinite never goes


def uniform(channels: Channels, scores: Floats) -> Times:
    """Every group loses the same share."""
    return _ranked(scores, [g.units for g in channels.groups])


def everywhere(channels: Channels, scores: Floats) -> Times:
    """One ranking of all units."""
    return _ranked(scores, [np.arange(channels.unit_count)])


def isomorphic(channels: Channels, scores: Floats) -> Times:
    """One ranking for all groups whose channels are written and read by the same kinds of nodes."""
    kinds = structure(channels)
    return _ranked(scores, list(_by_key(channels, lambda i: kinds[i]).values()))


def shares(channels: Channels, scores: Floats, sections: Mapping[int, tuple[str, float]]) -> Times:
    """Sections lose units in the proportion of their shares.

    Args:
        channels: the analysis.
        scores: (unit_count,).
        sections: group -> (name of its section, share of the section's units that goes at time 1).

    Raises:
        UsageError: a share outside [0, 1].
    """
    times = np.full(channels.unit_count, np.inf)
    for (name, share), units in _by_key(channels, lambda i: sections[i]).items():
        if not 0 <= share <= 1:
            raise UsageError(f"section {name!r} cannot lose a share of {share:g}; give 0 to 1")
        if share > 0:
            ranks = _ranked(scores, [units])[units] / share
            times[units] = ranks
    return times


ALLOCATIONS: dict[str, Callable[[Channels, Floats], Times]] = {
    "global": everywhere,
    "uniform": uniform,
    "isomorphic": isomorphic,
}


def structure(channels: Channels) -> list[tuple[tuple[str, str, int], ...]]:
    """For each group, what its channels are to the nodes that carry them: (operator, role, count)."""
    found: list[dict[tuple[str, str], int]] = [defaultdict(int) for _ in channels.groups]
    for site, axis in channels.sites:
        kernel = "x".join(str(d) for d in (site.node.inputs[site.index].shape or [])[2:])
        for group, _ in axis.groups if axis else ():
            found[group][f"{site.node.op} {kernel}", site.role] += 1
    return [tuple(sorted((op, role, n) for (op, role), n in f.items())) for f in found]


def layers_of(channels: Channels) -> list[list[str]]:
    """For each group, the names of the layers whose output channels it is."""
    found: list[dict[str, None]] = [{} for _ in channels.groups]
    for site, axis in channels.sites:
        if axis is not None and site.role in ("output", "depthwise"):
            for group, _ in axis.groups:
                found[group][label(site.node)] = None
    return [list(f) for f in found]


def _by_key(channels: Channels, key: Callable[[int], Any]) -> dict[Any, Vector]:
    parts: dict[Any, list[Vector]] = defaultdict(list)
    for group in channels.groups:
        parts[key(group.index)].append(group.units)
    return {k: np.concatenate(v) for k, v in parts.items()}


def _ranked(scores: Floats, sets: Sequence[Vector]) -> Times:
    """(rank + 1) / size within each set; equal times of different sets are told apart.

    Without that a budget could only be met in steps of one unit of every group at once.
    """
    times = np.full(len(scores), np.inf)
    for k, units in enumerate(sets):
        order = units[np.argsort(scores[units], kind="stable")]
        nudge = 1e-9 * (k + 1) / (len(sets) + 1)
        times[order] = (np.arange(len(order)) + 1) / len(order) + nudge
    return times
