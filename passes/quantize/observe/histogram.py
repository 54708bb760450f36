"""A histogram that takes any number of values in constant memory.

Bins are equally wide over [-R, R), R a power of two. A value beyond doubles R: neighbouring bins are
added in pairs, which is exact, so the result does not depend on the order of the values nor on how
they came in batches. R ends within a factor of two of the largest magnitude, which leaves at least
BINS / 4 bins on either side of 0: 16 or more for each of the 255 steps of an 8-bit grid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 16384


class Histogram:
    """Counts, the smallest and the largest value, and an average of ranges over batches."""

    def __init__(self, momentum: float = 0.9) -> None:
        """`momentum` weighs what was seen before in the moving average of ranges."""
        self.counts = np.zeros(BINS, np.int64)
        self.radius = 0.0
        self.low, self.high = math.inf, -math.inf
        self.mean_low, self.mean_high = 0.0, 0.0
        self.batches = 0
        self.not_finite = 0
        self.zeros = 0  # exact ones, which every grid represents exactly
        self._momentum = momentum

    def add(self, values: Array) -> None:
        """Counts one batch of values; what is not finite is counted apart."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.not_finite += flat.size - finite.size
            if not finite.size:
                return
            flat, low, high = finite, float(finite.min()), float(finite.max())
        self._note_range(low, high)
        self._widen(max(-low, high))
        self.zeros += int(flat.size - np.count_nonzero(flat))
        # Values are scaled by a power of two, which rounds nothing.
        index = flat * np.float32(BINS / 2 / self.radius)
        np.floor(index, out=index)
        index += BINS / 2
        self.counts += np.bincount(index.astype(np.int32), minlength=BINS)[:BINS]

    def _note_range(self, low: float, high: float) -> None:
        weight = self._momentum if self.batches else 0.0
        self.mean_low = weight * self.mean_low + (1 - weight) * low
        self.mean_high = weight * self.mean_high + (1 - weight) * high
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.batches += 1

    def _widen(self, magnitude: float) -> None:
        # Subnormal values would need a factor beyond float32; below, everything counts as 0.
        needed = max(2.0 ** (math.floor(math.log2(magnitude)) + 1) if magnitude else 0.0, 2.0**-100)
        if not self.radius:
            self.radius = needed
        while self.radius < needed:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 * 3] = pairs
            self.radius *= 2

    @property
    def total(self) -> int:
        """How many finite values were counted."""
        return int(self.counts.sum())

    def edges(self) -> Array:
        """The BINS + 1 bounds of the bins."""
        return np.linspace(-self.radius, self.radius, BINS + 1)

    def occupied(self, *, zeros: bool = True) -> tuple[Array, Array, Array]:
        """Lower bounds, upper bounds and counts of the bins that hold something.

        The outermost are cut at the smallest and the largest value. Exact zeros can be left out.
        """
        counts = self.counts
        if not zeros:
            counts = counts.copy()
            counts[BINS // 2] -= self.zeros
        held = np.flatnonzero(counts)
        edges = self.edges()
        lower, upper = edges[held], edges[held + 1]
        return np.maximum(lower, self.low), np.minimum(upper, self.high), counts[held]

    def state(self) -> dict[str, Array]:
        """Everything as arrays, to be stored."""
        numbers = [self.radius, self.low, self.high, self.mean_low, self.mean_high]
        return {
            "counts": self.counts,
            "numbers": np.asarray(numbers, np.float64),
            "tallies": np.asarray([self.batches, self.not_finite, self.zeros], np.int64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Array]) -> Histogram:
        """The histogram that `state` was taken of."""
        found = cls()
        found.counts = state["counts"].astype(np.int64)
        found.radius, found.low, found.high, found.mean_low, found.mean_high = map(
            float, state["numbers"]
        )
        found.batches, found.not_finite, found.zeros = map(int, state["tallies"])
        return found
