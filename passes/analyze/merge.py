"""From scores per layer to one score per unit.

    score(unit) = reduce over the layers l that hold it ( normalize_l(scores of l)[unit] )

A layer that holds a unit several times (the positions behind a Flatten, the channels of a group)
counts once, with the mean of its elements; under "sum" and "max" with their sum and maximum.

Reductions, n being the number of layers that hold the unit:

    sum, mean, max   as they are called
    or               keep it when any layer would (SlimYOLOv3): for every threshold t,
                     any(s_l > t) is max(s_l) > t, so this is "max"
    vote             keep it when at least half of the layers would (group channel pruning,
                     arXiv 2306.01526): #{l: s_l > t} >= n / 2 exactly when the ceil(n/2)-th largest
                     s_l is above t, so that is the score. It votes right at every pruning ratio.

Normalizations of a layer's scores x over all of its channels:

    none x    mean x / mean(x)    max x / max(x)    l2 x / sqrt(sum x^2)
    minmax (x - min) / (max - min)    gaussian (x - mean) / standard deviation
    rank the share of the layer's channels that are not larger, ties sharing their mean rank

Where the divisor is zero all of the layer's channels get 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.channels.groups import KEPT_UNIT
from graphopt.channels.labels import Vector
from graphopt.errors import ModelError, UsageError
from graphopt.passes.analyze.places import Place

Scores = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rating:
    """The scores of a place's elements, one per element of its axis."""

    place: Place
    values: Scores


def merge(
    ratings: Sequence[Rating],
    unit_count: int,
    *,
    reduce: str = "mean",
    normalize: str = "none",
    what: str = "importance",
) -> Scores:
    """One score per unit; NaN for units that no rating speaks of.

    Args:
        ratings: the layers' scores.
        unit_count: how many units there are.
        reduce: one of `REDUCTIONS`.
        normalize: one of `NORMALIZATIONS`.
        what: who scored, for error texts.

    Raises:
        ModelError: a layer's scores are not all finite.
        UsageError: no such reduction or normalization.
    """
    _check_choice("merge", reduce, REDUCTIONS)
    _check_choice("normalize", normalize, NORMALIZATIONS)
    units, values = [np.zeros(0, np.int64)], [np.zeros(0)]
    for rating in ratings:
        _check_finite(rating, what)
        held, scores = _per_unit(rating, normalize, reduce)
        units.append(held)
        values.append(scores)
    return REDUCTIONS[reduce](np.concatenate(units), np.concatenate(values), unit_count)


def normalized(scores: Scores, how: str) -> Scores:
    """A layer's scores under one of `NORMALIZATIONS`."""
    return NORMALIZATIONS[how](np.asarray(scores, np.float64))


def _per_unit(rating: Rating, normalize: str, reduce: str) -> tuple[Vector, Scores]:
    """The units of a layer, each once, and their scores."""
    values = normalized(rating.values, normalize)
    units = rating.place.units
    if _each_once(units):
        return units, values
    free = units != KEPT_UNIT
    units, values = units[free], values[free]
    held, which = np.unique(units, return_inverse=True)
    if len(held) < len(units):
        within = reduce if reduce in ("sum", "max", "or") else "mean"
        values = REDUCTIONS[within](which, values, len(held))
        return held, values
    order = np.argsort(which)
    return held, values[order]


def _each_once(units: Vector) -> bool:
    """Whether nothing stays and every unit comes once, in order, as along most axes."""
    return bool(len(units) and units[0] != KEPT_UNIT and (units[1:] > units[:-1]).all())


def _check_finite(rating: Rating, what: str) -> None:
    bad = len(rating.values) - int(np.count_nonzero(np.isfinite(rating.values)))
    if bad:
        place = rating.place
        raise ModelError(
            f"layer {place.layer!r}: {what} scores of {bad} of its {len(rating.values)} channels "
            f"are NaN or infinite; look for such values in {place.tensor.name!r}, the data or the "
            "gradients"
        )


def _check_choice(option: str, given: str, known: Sequence[str] | dict[str, Any]) -> None:
    if given not in known:
        raise UsageError(f"{option}={given!r} is none of {', '.join(known)}")


# --- reductions -----------------------------------------------------------------------------------


def _sum(units: Vector, values: Scores, count: int) -> Scores:
    return _where_held(np.bincount(units, values, count).astype(np.float64), units, count)


def _mean(units: Vector, values: Scores, count: int) -> Scores:
    held = np.bincount(units, minlength=count)
    return _where_held(np.bincount(units, values, count) / np.maximum(held, 1), units, count)


def _max(units: Vector, values: Scores, count: int) -> Scores:
    found = np.full(count, -np.inf)
    np.maximum.at(found, units, values)
    return _where_held(found, units, count)


def _upper_median(units: Vector, values: Scores, count: int) -> Scores:
    order = np.lexsort((-values, units))
    held = np.bincount(units, minlength=count)
    first = np.concatenate([[0], np.cumsum(held)[:-1]]) if count else np.zeros(0, np.int64)
    at = first + np.maximum((held + 1) // 2 - 1, 0)
    found = np.full(count, np.nan)
    found[held > 0] = values[order][at[held > 0]]
    return found


def _where_held(found: Scores, units: Vector, count: int) -> Scores:
    return np.where(np.bincount(units, minlength=count) > 0, found, np.nan)


REDUCTIONS: dict[str, Callable[[Vector, Scores, int], Scores]] = {
    "sum": _sum,
    "mean": _mean,
    "max": _max,
    "vote": _upper_median,
    "or": _max,
}


# --- normalizations -------------------------------------------------------------------------------


def _over(x: Scores, divisor: float) -> Scores:
    return x / divisor if divisor else np.zeros_like(x)


def _rank(x: Scores) -> Scores:
    ordered = np.sort(x)
    below, not_above = np.searchsorted(ordered, x), np.searchsorted(ordered, x, side="right")
    return np.asarray((below + 1 + not_above) / 2 / len(x))


NORMALIZATIONS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda x: x,
    "mean": lambda x: _over(x, float(x.mean())),
    "max": lambda x: _over(x, float(x.max())),
    "minmax": lambda x: _over(x - x.min(), float(x.max() - x.min())),
    "l2": lambda x: _over(x, float(np.sqrt((x * x).sum()))),
    "gaussian": lambda x: _over(x - x.mean(), float(x.std())),
    "rank": _rank,
}
