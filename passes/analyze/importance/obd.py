"""How the loss changes, to second order, when a filter is set to zero."""

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
class Obd(Importance):
    """s_c = sum_k h_ck W_ck^2 / 2, h being the diagonal of the loss's Hessian.

    LeCun et al., Optimal Brain Damage, NIPS 1989; at a trained optimum the first-order term
    vanishes. h is `Evidence.hessian` where given, else the diagonal of the empirical Fisher
    information, the mean of g^2 over the gradients given: one gradient per sample makes it exact,
    one per batch underestimates it. W, g, h as (channels C, weights of a channel K).

    Attributes:
        sides: which side of weights counts, as for weight norms.
    """

    name = "obd"
    needs = "gradients"
    normalize = "none"
    reduce = "sum"

    sides: str = "output"

    def __post_init__(self) -> None:
        check_option(self.name, "sides", self.sides, ("output", "input", "both"))

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """From the Hessian's diagonal, or from gradients."""
        if evidence.hessian is None:
            return mean_over_gradients(evidence, self.sides, self.name, _from_gradients)
        return [
            Rating(p, _saliency(evidence.rows(p), evidence.gradient_rows(p, evidence.hessian)[0]))
            for p in evidence.weights(self.sides)
        ]


def _from_gradients(rows: Array, gradients: Array) -> Scores:
    return _saliency(rows, np.square(gradients.astype(np.float64)))


def _saliency(rows: Array, diagonal: Array) -> Scores:
    return np.asarray((np.square(rows.astype(np.float64)) * diagonal).sum(-1) / 2)
