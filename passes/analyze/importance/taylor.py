"""How the loss changes, to first order, when a filter is set to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.accumulate import mean_over_gradients
from graphopt.passes.analyze.importance.base import Importance, check_option
from graphopt.passes.analyze.merge import Rating, Scores


@dataclass(frozen=True)
class Taylor(Importance):
    """The first-order change of the loss, W and g = dL/dW as (channels C, weights of a channel K):

        form "square": s_c = sum_k (g_ck W_ck)^2     every weight on its own
        form "gate":   s_c = (sum_k g_ck W_ck)^2     the filter as one, as behind a gate
        form "abs":    s_c = sum_k |g_ck W_ck|

    averaged over the gradients given (samples or batches). Molchanov et al., Importance Estimation
    for Neural Network Pruning, CVPR 2019: summed over what is coupled, ranked globally without
    normalization. "gate" is zero for a convolution before a BatchNormalization in training mode,
    whose output does not depend on the filter's scale.

    Attributes:
        form: as above.
        sides: which side of weights counts, as for weight norms.
    """

    name = "taylor"
    needs = "gradients"
    normalize = "none"
    reduce = "sum"

    form: str = "square"
    sides: str = "output"

    def __post_init__(self) -> None:
        check_option(self.name, "form", self.form, ("square", "gate", "abs"))
        check_option(self.name, "sides", self.sides, ("output", "input", "both"))

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """The mean over all gradients, weight by weight."""
        return mean_over_gradients(evidence, self.sides, self.name, self._change)

    def _change(self, rows: Array, gradients: Array) -> Scores:
        """(samples, C) from (C, K) and (samples, C, K)."""
        change = gradients.astype(np.float64) * rows
        if self.form == "gate":
            return np.square(change.sum(2))
        return np.square(change).sum(2) if self.form == "square" else np.abs(change).sum(2)
