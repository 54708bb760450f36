"""The L2 norm of a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores

_PIECE = 2048  # products added in the weights' own precision before going on in double


@dataclass(frozen=True)
class L2(WeightImportance):
    """s_c = sqrt(sum_k W_ck^2), W being the weight as (channels C, weights of a channel K).

    He et al., Soft Filter Pruning, IJCAI 2018; ranked within a layer there, hence the division by
    the layer's mean.
    """

    name = "l2"

    def of_rows(self, rows: Array) -> Scores:
        """sqrt(sum_k W_ck^2), summed in pieces: exact to 1e-7 without a copy in double precision."""
        count = rows.shape[1] // _PIECE
        total = _squares(rows[:, count * _PIECE :]).astype(np.float64)
        if count:
            pieces = rows[:, : count * _PIECE].reshape(len(rows), count, _PIECE)
            total += _squares(pieces).sum(1, dtype=np.float64)
        return np.sqrt(total)


def _squares(rows: Array) -> Array:
    """The sum of squares along the last axis, by the library's dot product."""
    found: Array = np.matmul(rows[..., None, :], rows[..., None])[..., 0, 0]
    return found
