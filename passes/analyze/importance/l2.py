"""The L2 norm of a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores

_PIECE = 256  # products added in the weights' own precision before going on in double


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
        rest = rows[:, count * _PIECE :]
        total = np.einsum("ck,ck->c", rest, rest).astype(np.float64)
        if count:
            pieces = rows[:, : count * _PIECE].reshape(len(rows), count, _PIECE)
            total = np.einsum("cpk,cpk->pc", pieces, pieces).sum(0, dtype=np.float64) + total
        return np.sqrt(total)
