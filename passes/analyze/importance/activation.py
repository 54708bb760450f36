"""How much of a feature map there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.accumulate import mean_over_images
from graphopt.passes.analyze.importance.base import Importance, check_option
from graphopt.passes.analyze.merge import Rating, Scores


@dataclass(frozen=True)
class Activation(Importance):
    """Means over images and positions of a layer's output A, after normalization and activation:

        form "abs":     s_c = mean |A_c|
        form "nonzero": s_c = share of A_c that is not zero, which is 1 - APoZ

    Hu et al., Network Trimming, 2016 (APoZ, the average percentage of zeros; for ReLU networks).

    Attributes:
        form: as above.
    """

    name = "activation"
    needs = "activations"

    form: str = "abs"

    def __post_init__(self) -> None:
        check_option(self.name, "form", self.form, ("abs", "nonzero"))

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """The mean of every channel."""
        return mean_over_images(evidence, self.name, self._of_maps)

    def _of_maps(self, maps: Array) -> Scores:
        flat = maps.reshape(*maps.shape[:2], -1)
        values = np.abs(flat) if self.form == "abs" else flat != 0
        return np.asarray(values.mean(2, dtype=np.float64))
