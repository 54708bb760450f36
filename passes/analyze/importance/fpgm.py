"""Distance from the geometric median of a layer's filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores

_BLOCK = 512  # rows of the distance matrix held at a time


@dataclass(frozen=True)
class Fpgm(WeightImportance):
    """s_c = sum_j ||W_c - W_j||, the sum of a filter's distances to all filters of its layer.

    He et al., Filter Pruning via Geometric Median, CVPR 2019: a filter near the geometric median is
    replaceable. Squared distances are |W_c|^2 + |W_j|^2 - 2 W_c W_j, so memory is C x C, never
    C x C x K. The filters' mean is taken out before, which changes no distance and keeps digits.
    """

    name = "fpgm"

    def of_rows(self, rows: Array) -> Scores:
        """sum_j ||W_c - W_j||."""
        x = rows.astype(np.float64)
        x -= x.mean(0)
        squares = np.einsum("ck,ck->c", x, x)
        found = np.empty(len(x))
        for start in range(0, len(x), _BLOCK):
            block = slice(start, start + _BLOCK)
            distances = squares[block, None] + squares - 2 * (x[block] @ x.T)
            # What rounding leaves of a filter's distance to itself would have a large root.
            np.fill_diagonal(distances[:, start:], 0)
            found[block] = np.sqrt(np.maximum(distances, 0)).sum(1)
        return found
