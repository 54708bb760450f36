"""Layer-adaptive magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.analyze.constants import Array
from graphopt.passes.analyze.importance.base import WeightImportance
from graphopt.passes.analyze.merge import Scores


@dataclass(frozen=True)
class Lamp(WeightImportance):
    """s_c = |W_c|^2 / sum of |W_j|^2 over the layer's channels j with |W_j| >= |W_c|.

    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, with a filter's
    norm in place of a weight. The largest channel of every layer scores 1, so a global ranking
    empties no layer before all others are down to one. Equal channels get equal scores.
    """

    name = "lamp"
    normalize = "none"

    def of_rows(self, rows: Array) -> Scores:
        """|W_c|^2 / sum_{j: |W_j| >= |W_c|} |W_j|^2."""
        squares = np.square(rows).sum(1, dtype=np.float64)
        ordered = np.sort(squares)
        from_here = np.cumsum(ordered[::-1])[::-1]
        total = from_here[np.searchsorted(ordered, squares)]
        return np.divide(squares, total, out=np.zeros_like(squares), where=total != 0)
