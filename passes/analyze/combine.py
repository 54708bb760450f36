"""Several importances as one: a weighted sum, with given weights or with one that is searched.

    S_u = sum_i w_i x_i(u) / sum_i w_i,    x_i = (s_i - min s_i) / (max s_i - min s_i) over all units

A unit some importances say nothing about is judged by the others. `dynamic` searches w of

    S_u = w gamma_u + (1 - w) CI_u

    dynamic(scores(channels, "bn-gamma"), scores(channels, "chip", normalize="minmax", data=data),
            quality)

by hill climbing: from w = 1/2 with a step of 1/4, the quality of what a mask leaves is measured at
w - step, w and w + step, w moves to the best, and the step is halved.

Wu's thesis (YOLOv3 on TX2 and Kirin) says of its score only that it is a weighted sum of BatchNorm
scales and channel independence whose ratio is adjusted dynamically; this search is our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.passes.analyze.merge import Scores

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def weighted_sum(parts: Sequence[tuple[float, Scores]]) -> Scores:
    """The sum above; NaN where no part has a score.

    Args:
        parts: weights and scores per unit, NaN where there is none.

    Raises:
        UsageError: a weight that is negative or not finite, or weights that sum to zero.
    """
    weights = np.array([w for w, _ in parts], np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise UsageError(f"weights of importances are not negative and not all zero: {weights}")
    scores = np.stack([unit_range(s) for _, s in parts])
    known = np.isfinite(scores)
    each = np.where(known, weights[:, None], 0)
    total = each.sum(0)
    summed = np.where(known, scores, 0) * each
    return np.divide(summed.sum(0), total, out=np.full(len(total), np.nan), where=total > 0)


def unit_range(scores: Scores) -> Scores:
    """Scores moved to [0, 1]; all 0 when they are equal, NaN where they are."""
    known = scores[np.isfinite(scores)]
    if not known.size:
        return scores
    low, width = known.min(), np.ptp(known)
    return np.asarray((scores - low) / (width or 1.0))


@dataclass(frozen=True)
class Climbed:
    """What a search for a weight found.

    Attributes:
        weight: the best weight of the first scores; that of the second is 1 - weight.
        scores: the sum with it.
        tried: (weight, quality) in the order of trying.
    """

    weight: float
    scores: Scores
    tried: tuple[tuple[float, float], ...]


def dynamic(
    first: Scores,
    second: Scores,
    quality: Callable[[Mask], float],
    *,
    ratio: float = 0.5,
    select: Callable[[Scores], Mask] | None = None,
    start: float = 0.5,
    step: float = 0.25,
    rounds: int = 4,
) -> Climbed:
    """Searches the weight of two scores that keeps the most quality.

    Args:
        first: for example BatchNorm scales, per unit.
        second: for example channel independence, per unit.
        quality: what is left of the network's quality under a mask (True: the unit stays), say the
            accuracy on some images after BatchNorm recalibration. Higher is better. It is asked at
            most once per weight.
        ratio: the share of units that goes, the lowest scores first.
        select: another way to make a mask from scores, instead of `ratio`.
        start: the first weight of `first`.
        step: how far from it is looked at first; halved every round.
        rounds: how often.

    Raises:
        UsageError: a start or ratio outside [0, 1], or a quality that is NaN.
    """
    if not (0 <= start <= 1 and 0 <= ratio <= 1):
        raise UsageError(f"start={start:g} and ratio={ratio:g} have to be between 0 and 1")
    keep = select or (lambda scores: kept(scores, ratio))
    tried: dict[float, float] = {}

    def ask(weight: float) -> float:
        if weight not in tried:
            found = float(quality(keep(weighted_sum([(weight, first), (1 - weight, second)]))))
            if np.isnan(found):
                raise UsageError(f"the quality function gives NaN at weight {weight:g}")
            tried[weight] = found
        return tried[weight]

    weight = float(start)
    for _ in range(rounds):
        # Of equal ones the first is taken: where it stands, it stays.
        around = [weight, max(0.0, weight - step), min(1.0, weight + step)]
        weight = max(around, key=ask)
        step /= 2
    ask(weight)
    scores = weighted_sum([(weight, first), (1 - weight, second)])
    return Climbed(weight, scores, tuple(tried.items()))


def kept(scores: Scores, ratio: float) -> Mask:
    """The mask without the lowest `ratio` of all units; ties go in the order of units.

    Units without a score stay.
    """
    order = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")
    mask: Mask = np.ones(len(scores), bool)
    mask[order[: int(len(scores) * ratio)]] = False
    return mask
