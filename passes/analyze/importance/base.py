"""What an importance is: it rates the channels of layers, and says how ratings become scores.

    @dataclass(frozen=True)
    class Spread(WeightImportance):
        '''s_c = max |W_c| - min |W_c|, W_c being filter c.'''

        name = "spread"

        def of_rows(self, rows: Array) -> Scores:
            return np.ptp(np.abs(rows), axis=1)

Options are the dataclass fields. `register` (graphopt.passes.analyze.registry) makes it known.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.merge import Rating, Scores, merge


@dataclass(frozen=True)
class Importance(abc.ABC):
    """Base of every importance.

    Attributes:
        name: what users call it.
        needs: "weights", "activations" or "gradients", what it looks at.
        normalize: how a layer's ratings are made comparable, unless the user says.
        reduce: how the ratings of coupled layers become one, unless the user says.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = "weights"
    normalize: ClassVar[str] = "mean"
    reduce: ClassVar[str] = "mean"

    @abc.abstractmethod
    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """The scores of layers' channels; higher is more important."""

    def scores(
        self, evidence: Evidence, *, reduce: str | None = None, normalize: str | None = None
    ) -> Scores:
        """One score per unit; NaN where the importance has nothing to go by.

        Raises:
            UsageError: data or gradients are missing.
            ModelError: a layer's scores are not all finite.
        """
        return merge(
            self.rate(evidence),
            evidence.channels.unit_count,
            reduce=reduce or self.reduce,
            normalize=normalize or self.normalize,
            what=self.name,
        )


@dataclass(frozen=True)
class WeightImportance(Importance):
    """Base of importances that look at one side of every weight.

    Attributes:
        sides: "output" (a channel is the filter that makes it), "input" (the weights that read it)
            or "both". Units with nothing on that side are judged by the other.
    """

    sides: str = "output"

    def __post_init__(self) -> None:
        check_option(self.name, "sides", self.sides, ("output", "input", "both"))

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """`of_rows` of every weight."""
        places = evidence.weights(self.sides)
        with np.errstate(invalid="ignore", over="ignore"):  # found and named when merging
            return [Rating(place, self.of_rows(evidence.rows(place))) for place in places]

    @abc.abstractmethod
    def of_rows(self, rows: Array) -> Scores:
        """The score of every row of (channels, weights of a channel)."""


def check_option(name: str, option: str, value: Any, known: Sequence[Any]) -> None:
    """Refuses an option that is none of the known ones."""
    if value not in known:
        raise UsageError(f"{name}: {option}={value!r} is none of {', '.join(map(str, known))}")
