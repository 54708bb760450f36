"""The rank of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import UsageError
from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.accumulate import mean_over_images
from graphopt.passes.analyze.importance.base import Importance
from graphopt.passes.analyze.merge import Rating, Scores


@dataclass(frozen=True)
class Hrank(Importance):
    """s_c = mean over images of rank(A_c), A_c being channel c's feature map, H x W.

    Lin et al., HRank, CVPR 2020, which ranks within a layer (hence the division by its mean). The
    map is taken after normalization and activation; the rank counts singular values above
    max(H, W) * eps * the largest, as numpy.linalg.matrix_rank does. Layers whose output has fewer
    than two positions axes give no score; of more than two, the first ones are taken together.
    """

    name = "hrank"
    needs = "activations"

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """The mean rank of every feature map.

        Raises:
            UsageError: no data, or no layer has two-dimensional maps.
        """
        found = mean_over_images(evidence, self.name, _ranks, positions=2)
        if not found:
            raise UsageError("importance 'hrank' needs layers with two-dimensional feature maps")
        return found


def _ranks(maps: Array) -> Scores:
    matrices = maps.reshape(*maps.shape[:2], -1, maps.shape[-1])
    return np.stack([ranks(each) for each in matrices])


def ranks(matrices: Array) -> Scores:
    """The rank of every matrix of (count, rows, columns); NaN where it is not finite.

    For 16 and 32-bit floats the squared singular values are taken from the smaller Gram matrix in
    64 bits, which loses nothing above the tolerance and is several times faster.
    """
    fine = np.asarray(np.isfinite(matrices).all((1, 2)))
    if not fine.all():
        safe = ranks(np.where(fine[:, None, None], matrices, 0))
        return np.where(fine, safe, np.nan)
    if matrices.dtype == np.float64:
        return np.linalg.matrix_rank(matrices).astype(np.float64)
    tolerance = max(matrices.shape[1:]) * np.finfo(matrices.dtype).eps
    a = matrices.astype(np.float64)
    turned = a.swapaxes(1, 2)
    squares = np.linalg.eigvalsh(a @ turned if a.shape[1] <= a.shape[2] else turned @ a)
    above = squares > squares.max(1, keepdims=True) * float(tolerance) ** 2
    return above.sum(1).astype(np.float64)
