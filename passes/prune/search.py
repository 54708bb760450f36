"""The weight of two importances, searched by what is left of the network under them.

    S = w r(a) + (1 - w) r(b),   r(x) = the share of units whose score is at most x,
    w by hill climbing (`graphopt.passes.analyze.combine.dynamic`) from 1/2, 0 and 1 on

Ranks, because gammas after sparse training lie in a heap near 0 with few large ones: moved to [0, 1]
as they are, the other importance would decide alone whatever w is.

For every weight asked about, the network is pruned to the budgets in a copy, its BatchNormalizations
are measured anew, and it is judged: by its metric on labelled images, or without labels by

    -sqrt(sum |y - y_w|^2 / sum |y|^2)

over all outputs and some images. System 3 (Wu's thesis) adjusts the ratio of gamma and channel
independence "dynamically"; this is our reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.analyze import Climbed, dynamic
from graphopt.passes.prune.proof import pruned
from graphopt.passes.prune.recalibrate import recalibrate
from graphopt.passes.prune.sensitivity import distance
from graphopt.runtime.run import Feeds, open_graph

_BATCHES = 8  # of images, for statistics and for outputs


def searched(
    channels: Channels,
    parts: Sequence[Floats],
    goes: Callable[[Floats], Vector],
    data: Any,
    judge: Callable[[Graph], float] | None = None,
) -> Climbed:
    """The best weight of two scores.

    Args:
        channels: the analysis.
        parts: two scores per unit.
        goes: the units that a budget takes under some scores.
        data: images, for the statistics of BatchNormalizations and for outputs.
        judge: the metric of a graph, higher is better; without one outputs are compared.

    Raises:
        UsageError: not two scores, or no images.
    """
    if len(parts) != 2:
        raise UsageError(
            f"search=true looks for the weight of two importances, as in bn-gamma+chip; there are "
            f"{len(parts)}"
        )
    batches: list[Feeds] = list(islice(data, _BATCHES)) if data is not None else []
    if not batches:
        raise UsageError("search=true judges pruned networks on images: give data")
    judged = judge if judge is not None else _nearness(channels.graph, batches)

    def quality(stays: Any) -> float:
        trial = pruned(channels, np.flatnonzero(~stays))
        recalibrate(trial, batches)
        return judged(trial)

    def select(scores: Floats) -> Any:
        stays = np.ones(channels.unit_count, bool)
        stays[goes(scores)] = False
        return stays

    first, second = (ranks(p) for p in parts)
    return dynamic(first, second, quality, select=select, step=0.5)


def ranks(scores: Floats) -> Floats:
    """For every score the share of scores that are at most as large; NaN where there is none."""
    known = np.isfinite(scores)
    found = np.full(len(scores), np.nan)
    ordered = np.sort(scores[known])
    found[known] = np.searchsorted(ordered, scores[known], side="right") / max(known.sum(), 1)
    return found


def _nearness(graph: Graph, batches: Sequence[Feeds]) -> Callable[[Graph], float]:
    whole = open_graph(graph, optimized=True)
    expected = [whole.run(feeds) for feeds in batches]

    def judge(trial: Graph) -> float:
        runner = open_graph(trial, optimized=True)
        return -distance(expected, [runner.run(feeds) for feeds in batches])

    return judge
