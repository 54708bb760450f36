"""Drawn at random: what every importance has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.base import Importance
from graphopt.passes.analyze.merge import Rating, Scores


@dataclass(frozen=True)
class Random(Importance):
    """s_u uniform in [0, 1), one draw per unit, the same for the same seed and model."""

    name = "random"

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """No layer is looked at."""
        del evidence
        return []

    def scores(
        self, evidence: Evidence, *, reduce: str | None = None, normalize: str | None = None
    ) -> Scores:
        """One draw per unit; merging and normalization have nothing to do."""
        del reduce, normalize
        return np.random.default_rng(evidence.seed).random(evidence.channels.unit_count)
