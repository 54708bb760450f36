"""The L1 norm of a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores


@dataclass(frozen=True)
class L1(WeightImportance):
    """s_c = sum_k |W_ck|, W being the weight as (channels C, weights of a channel K).

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, rank within a layer; dividing by
    the layer's mean keeps that order and makes layers comparable.
    """

    name = "l1"

    def of_rows(self, rows: Array) -> Scores:
        """sum_k |W_ck|."""
        return np.asarray(np.abs(rows).sum(1, dtype=np.float64))
