"""Means over what streams by: gradients, and the feature maps of calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.merge import Rating, Scores
from graphopt.passes.analyze.places import Place


def mean_over_gradients(
    evidence: Evidence, sides: str, name: str, measure: Callable[[Array, Array], Scores]
) -> Sequence[Rating]:
    """Mean of `measure`(weight as (C, K), gradients as (samples, C, K)) -> (samples, C)."""
    wanted = evidence.weights(sides)
    mean = _Mean(wanted)
    for gradient in evidence.gradients(name):
        for i, place in enumerate(wanted):
            with np.errstate(invalid="ignore", over="ignore"):  # found and named when merging
                rows, gradients = evidence.rows(place), evidence.gradient_rows(place, gradient)
                mean.add(i, measure(rows, gradients))
    return mean.ratings()


def mean_over_images(
    evidence: Evidence,
    name: str,
    measure: Callable[[Array], Scores],
    *,
    positions: int = 0,
) -> Sequence[Rating]:
    """Mean of `measure`(feature map as (images, C, positions...)) -> (images, C).

    Args:
        evidence: holds the data.
        name: who asks.
        measure: what is averaged.
        positions: how many axes a feature map needs besides images and channels.
    """
    wanted = [p for p in evidence.features if len(p.tensor.shape) >= positions + 2]
    mean = _Mean(wanted)
    for maps in evidence.feature_maps(wanted, name):
        for i, each in enumerate(maps):
            with np.errstate(invalid="ignore", over="ignore"):
                mean.add(i, measure(each))
    return mean.ratings()


class _Mean:
    def __init__(self, wanted: Sequence[Place]) -> None:
        self._places = wanted
        self._sums = [np.zeros(len(p.units)) for p in wanted]
        self._counts = [0] * len(wanted)

    def add(self, index: int, values: Scores) -> None:
        """Adds (samples, C) to what is known of place `index`."""
        self._sums[index] += values.sum(0)
        self._counts[index] += len(values)

    def ratings(self) -> Sequence[Rating]:
        """The means."""
        pairs = zip(self._places, self._sums, self._counts, strict=True)
        return [Rating(p, total / count) for p, total, count in pairs]
