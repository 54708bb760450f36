"""Channel independence: what of a layer's output the other channels cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.accumulate import mean_over_images
from graphopt.passes.analyze.importance.base import Importance
from graphopt.passes.analyze.merge import Rating, Scores

# Nodes of the trapezoidal rule in u = log(s / largest singular value). The integrand is analytic
# for |Im u| < pi/2, so the rule's error is about exp(-pi^2 / step); the cut ends count for 1e-10.
_STEP = 0.4
_NODES = np.exp(np.arange(np.log(1e-12), np.log(1e10), _STEP))
_ROUNDING = 1e-12  # a smaller share of a channel outside the span of the others is rounding


@dataclass(frozen=True)
class Chip(Importance):
    """s_c = mean over images of ||A||_* - ||A without row c||_*, A being the output, C x positions.

    Sui et al., CHIP, NeurIPS 2021; ||.||_* is the nuclear norm, the sum of the singular values, and
    A is taken after normalization and activation. The paper ranks within a layer (hence the
    division by its mean).

    No matrix is decomposed again for every channel. With G = A A^T = U diag(v^2) U^T, a norm is
    (1/pi) * integral over s > 0 of log det(I + G / s^2), and deleting row and column c multiplies a
    determinant by an entry of the inverse, so

        s_c = -(1/pi) * integral over s > 0 of log sum_i U_ci^2 s^2 / (s^2 + v_i^2) ds,

    exact up to the quadrature (a relative 1e-8): one eigenvalue problem per image, of G or of
    A^T A, whichever is smaller, and two matrix products.
    """

    name = "chip"
    needs = "activations"

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """The mean independence of every channel."""
        return mean_over_images(evidence, self.name, _of_maps)


def _of_maps(maps: Array) -> Scores:
    return np.stack([independence(m.reshape(len(m), -1)) for m in maps])


def independence(a: Array) -> Scores:
    """||A||_* - ||A without row c||_* for every row c of `a`; NaN when `a` is not finite."""
    a = a.astype(np.float64)
    if not np.isfinite(a).all():
        return np.full(len(a), np.nan)
    squares, shares = _spectrum(a)
    if not len(squares):
        return np.zeros(len(a))
    scale = np.sqrt(squares.max())
    s2 = np.square(_NODES * scale)
    # Two forms of the same sum, each exact where the other cancels.
    inside = shares @ (squares[:, None] / (s2 + squares[:, None]))
    null = 1 - shares.sum(1, keepdims=True)
    outside = shares @ (s2 / (s2 + squares[:, None])) + np.where(null > _ROUNDING, null, 0)
    tiny = np.finfo(np.float64).tiny
    logs = np.where(inside < 0.5, np.log1p(-inside.clip(0, 0.5)), np.log(outside.clip(tiny)))
    return np.asarray(-(logs @ _NODES) * scale * _STEP / np.pi)


def _spectrum(a: Array) -> tuple[Scores, Scores]:
    """The squared singular values that are not zero, and U^2 as (rows, values)."""
    wide = a.shape[0] <= a.shape[1]
    squares, vectors = np.linalg.eigh(a @ a.T if wide else a.T @ a)
    kept = squares > squares.max(initial=0) * len(squares) * np.finfo(np.float64).eps
    squares, vectors = squares[kept], vectors[:, kept]
    if not wide:
        vectors = (a @ vectors) / np.sqrt(squares)
    return squares, np.square(vectors)
