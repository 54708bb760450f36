"""The range of a tensor that its integers cover, chosen from its histogram.

What lies outside is clipped, what lies inside is rounded: a wider range clips less and rounds more
coarsely. The methods differ in how they weigh the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.named import unknown
from graphopt.passes.quantize.grid import Kind, grid_for
from graphopt.passes.quantize.observe.curves import Curve
from graphopt.passes.quantize.observe.histogram import Histogram

Array = np.ndarray[Any, Any]
Range = tuple[float, float]

_PERCENTILE = 99.99
_CANDIDATES = 64
_SMALLEST_SHARE = 0.02  # of the full range, which the search goes down to


@dataclass(frozen=True)
class Wanted:
    """What the range is for."""

    kind: Kind
    symmetric: bool
    percentile: float = _PERCENTILE
    curve: Curve | None = None  # the activation errors are seen through


Method = Callable[[Histogram, Wanted], Range]


def range_of(
    method: str,
    histogram: Histogram,
    kind: Kind,
    *,
    symmetric: bool,
    percentile: float = _PERCENTILE,
    curve: Curve | None = None,
) -> Range:
    """The range one of METHODS chooses.

    Args:
        method: its name.
        histogram: of the tensor, with at least one value in it.
        kind: the integer type.
        symmetric: whether the range will be made symmetric around 0.
        percentile: how much of the values the range holds, in percent, for `percentile`.
        curve: the activation everyone sees the tensor through, for `mse`.

    Raises:
        UsageError: no such method, or a percentile that is none.
    """
    if method not in METHODS:
        raise UsageError(unknown("calibration method", method, METHODS))
    if not 50 < percentile <= 100:
        raise UsageError(f"percentile={percentile:g}: it is above 50 and at most 100")
    low, high = METHODS[method](histogram, Wanted(kind, symmetric, percentile, curve))
    # 0 is always inside, and nothing beyond what was seen.
    seen = min(histogram.low, 0.0), max(histogram.high, 0.0)
    return max(min(low, 0.0), seen[0]), min(max(high, 0.0), seen[1])


def min_max(histogram: Histogram, _: Wanted) -> Range:
    """[min x, max x]: clips nothing."""
    return histogram.low, histogram.high


def moving_average(histogram: Histogram, _: Wanted) -> Range:
    """r <- 0.9 r + 0.1 [min, max] over batches (Jacob et al., CVPR 2018): mild on outliers."""
    return histogram.mean_low, histogram.mean_high


def percentile(histogram: Histogram, wanted: Wanted) -> Range:
    """The shortest central range that holds the given percentage of the values.

    Half of what is left out lies beyond either end; all of it where the values have one sign
    (McKinstry et al., "Discovering Low-Precision Networks", 2018).
    """
    lower, upper, counts = histogram.occupied()
    outside = 1 - wanted.percentile / 100
    is_one_sided = histogram.low >= 0 or histogram.high <= 0
    tail = outside if is_one_sided else outside / 2
    share = np.cumsum(counts) / counts.sum()
    low = lower[np.searchsorted(share, tail, side="right")] if histogram.low < 0 else 0.0
    high = upper[np.searchsorted(share, 1 - tail)] if histogram.high > 0 else 0.0
    return float(low), float(high)


def entropy(histogram: Histogram, wanted: Wanted) -> Range:
    """argmin over clips of KL(P || Q), P the clipped distribution, Q what the grid makes of it.

    Migacz, "8-bit Inference with TensorRT", GTC 2017. Every candidate range is cut into as many
    cells as the grid has steps; Q spreads the mass of a cell evenly over its occupied bins. Mass
    that is clipped is put into the outermost bins of P and is missing in Q.
    """
    return _search(histogram, wanted, _divergence)


def mse(histogram: Histogram, wanted: Wanted) -> Range:
    """argmin over clips of E[(f(x) - f(rounded(x)))^2], f the activation behind the tensor, if any.

    Inside the range the error is f'(x)^2 s^2 / 12, outside (f(x) - f(bound))^2.
    """
    return _search(histogram, wanted, _squared_error)


METHODS: dict[str, Method] = {
    "min-max": min_max,
    "moving-average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


# --- search over clips ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """The bins that hold something other than exact zeros, which every grid represents."""

    middle: Array
    counts: Array
    seen: Array  # the middle through the activation behind the tensor

    @classmethod
    def of(cls, histogram: Histogram, curve: Curve | None) -> _Values:
        lower, upper, counts = histogram.occupied(zeros=False)
        middle = (lower + upper) / 2
        return cls(middle, counts.astype(np.float64), middle if curve is None else curve(middle))


Loss = Callable[[_Values, Range, Wanted], float]


def _search(histogram: Histogram, wanted: Wanted, loss: Loss) -> Range:
    """The best range: both ends in turn, in steps that stay in proportion to the end's size."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    values = _Values.of(histogram, wanted.curve)
    if not values.counts.size:
        return low, high
    shares = np.geomspace(_SMALLEST_SHARE, 1.0, _CANDIDATES)[::-1]

    def best(ranges: list[Range]) -> Range:
        losses = [loss(values, r, wanted) for r in ranges]
        return ranges[int(np.argmin(losses))]  # ties: the widest, which comes first

    if wanted.symmetric:
        top = max(high, -low)
        return best([(-top * s, top * s) for s in shares])
    found = low, high
    for _ in range(2):
        if high > 0:
            found = best([(found[0], high * s) for s in shares])
        if low < 0:
            found = best([(low * s, found[1]) for s in shares])
        if low == 0 or high == 0:
            break
    return found


def _squared_error(values: _Values, found: Range, wanted: Wanted) -> float:
    low, high = _covered(found, wanted)
    step = (high - low) / max(wanted.kind.high - wanted.kind.low, 1)
    held = np.clip(values.middle, low, high)
    curve = wanted.curve
    if curve is None:
        return float(np.dot(values.counts, (values.middle - held) ** 2 + step * step / 12))
    clipped = (values.seen - curve(held)) ** 2
    rounded = (curve(held + step / 2) - curve(held - step / 2)) ** 2 / 12
    return float(np.dot(values.counts, clipped + rounded))


def _divergence(values: _Values, found: Range, wanted: Wanted) -> float:
    low, high = _covered(found, wanted)
    below, above = values.middle < low, values.middle > high
    inside = ~(below | above)
    if not inside.any():
        return float("inf")
    mass = values.counts[inside]
    steps = wanted.kind.high - wanted.kind.low
    cell = np.rint((values.middle[inside] - low) / max(high - low, 1e-300) * steps)
    cell = np.clip(cell, 0, steps).astype(np.int64)
    of_cell = np.bincount(cell, weights=mass, minlength=steps + 1)
    bins_of_cell = np.bincount(cell, minlength=steps + 1)
    made = of_cell[cell] / bins_of_cell[cell]
    reference = mass.copy()
    reference[0] += values.counts[below].sum()
    reference[-1] += values.counts[above].sum()
    p, q = reference / reference.sum(), made / made.sum()
    return float(np.sum(p * np.log(p / q)))


def _covered(found: Range, wanted: Wanted) -> Range:
    """The range the grid for `found` really covers."""
    grid = grid_for(*found, wanted.kind, symmetric=wanted.symmetric)
    ends = (np.array([grid.low, grid.high]) - grid.zero) * grid.scale.astype(np.float64)
    return float(ends[0]), float(ends[1])
