"""The L2 norm of a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores


@dataclass(frozen=True)
class L2(WeightImportance):
    """s_c = sqrt(sum_k W_ck^2), W being the weight as (channels C, weights of a channel K).

    He et al., Soft Filter Pruning, IJCAI 2018; ranked within a layer there, hence the division by
    the layer's mean.
    """

    name = "l2"

    def of_rows(self, rows: Array) -> Scores:
        """sqrt(sum_k W_ck^2)."""
        return np.asarray(np.sqrt(np.square(rows).sum(1, dtype=np.float64)))
