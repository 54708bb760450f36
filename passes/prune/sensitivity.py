"""How much the outputs suffer when a part of the network loses channels, measured.

For every part (a channel group, or a section) and a few shares r, the part's least important units
are zeroed in the original network and the outputs compared on data:

    e(r) = sqrt(sum |y - y_r|^2 / sum |y|^2), summed over all outputs and images

Between the measured shares e is interpolated. Used as an allocation, a unit's time is the error at
which its part loses it, so that moving the clock lets every part do the same damage; this is how
per-layer and per-section thresholds are found without setting them by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.channels.masking import masked
from graphopt.errors import UsageError
from graphopt.passes.prune.allocation import layers_of
from graphopt.passes.prune.sections import sections
from graphopt.runtime.run import Feeds, Outputs, open_graph

SHARES = (0.25, 0.5, 0.75)
Parts = Sequence[tuple[str, Vector]]  # name and units of each


def by_group(channels: Channels) -> Parts:
    """Every channel group is a part, called after the first layer that makes it."""
    names = [layers[0] if layers else "?" for layers in layers_of(channels)]
    return [(n, g.units) for n, g in zip(names, channels.groups, strict=True)]


def by_section(channels: Channels) -> Parts:
    """Every section is a part."""
    return [
        (s.name, np.concatenate([channels.groups[g].units for g in s.groups]))
        for s in sections(channels)
    ]


# The allocations that measure, and what their parts are.
PARTS: dict[str, Callable[[Channels], Parts]] = {"sensitivity": by_group, "sections": by_section}


@dataclass(frozen=True)
class Sensitivity:
    """The measured errors of parts: `errors[part][k]` at share `SHARES[k]`."""

    names: tuple[str, ...]
    errors: tuple[tuple[float, ...], ...]


def measure(
    channels: Channels,
    scores: Floats,
    parts: Parts,
    data: Iterable[Feeds],
) -> Sensitivity:
    """The errors of every part.

    Args:
        channels: the analysis.
        scores: (unit_count,), lower goes first.
        parts: see `PARTS`.
        data: a few batches; every part is run on all of them once per share.

    Raises:
        UsageError: there is no data.
    """
    feeds = list(data)
    if not feeds:
        raise UsageError("sensitivity is measured on images: give --data")
    whole = open_graph(channels.graph, optimized=True)
    expected = [whole.run(f) for f in feeds]
    errors = []
    for _, units in parts:
        order = units[np.argsort(scores[units], kind="stable")]
        row = []
        for share in SHARES:
            runner = open_graph(
                masked(channels, order[: round(share * len(order))]), optimized=True
            )
            row.append(distance(expected, [runner.run(f) for f in feeds]))
        errors.append(tuple(np.maximum.accumulate(row).tolist()))
    return Sensitivity(tuple(name for name, _ in parts), tuple(errors))


def times(count: int, scores: Floats, parts: Parts, found: Sensitivity) -> Floats:
    """For each of `count` units the error at which it goes."""
    at = np.full(count, np.inf)
    for (_, units), errors in zip(parts, found.errors, strict=True):
        order = units[np.argsort(scores[units], kind="stable")]
        share = (np.arange(len(order)) + 1) / len(order)
        # Beyond the last share the error goes on rising as steeply as before it.
        slope = (errors[-1] - errors[-2]) / (SHARES[-1] - SHARES[-2])
        end = errors[-1] + max(slope, 1e-9) * (1 - SHARES[-1])
        at[order] = np.interp(share, [0.0, *SHARES, 1.0], [0.0, *errors, end]) + 1e-12 * share
    return at


def distance(expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """sqrt(sum |y - y'|^2 / sum |y|^2) over all floating-point outputs of all batches."""
    off = total = 0.0
    for one, other in zip(expected, found, strict=True):
        for name, values in one.items():
            if values.dtype.kind == "f":
                exact = np.nan_to_num(values.astype(np.float64))
                off += float(np.square(exact - np.nan_to_num(other[name])).sum())
                total += float(np.square(exact).sum())
    return float(np.sqrt(off / (total or 1.0)))
