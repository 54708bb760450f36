"""How much the loss depends on a mask over everything that is coupled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.channels.groups import KEPT_UNIT
from graphopt.errors import ModelError, UsageError
from graphopt.passes.analyze.costs import macs_of_units, memory_of_units
from graphopt.passes.analyze.evidence import Evidence, Gradient
from graphopt.passes.analyze.importance.base import Importance, check_option
from graphopt.passes.analyze.merge import Rating, Scores
from graphopt.passes.analyze.places import Place


@dataclass(frozen=True)
class GroupFisher(Importance):
    """s_u = sum over samples n of ( dL_n / dm_u )^2 / cost(u), m_u a mask on all readers of unit u.

    Liu et al., Group Fisher Pruning, ICML 2021. With a_c the input of layer l in channel c,

        dL/dm_u = sum over layers l that read u, sum over positions of a_c * dL/da_c
                = sum over layers l that read u, sum_k W_ck * dL/dW_ck,

    W as (input channels, weights of a channel): a mask times the input is a mask times the weights
    that read it, so gradients of weights are all that is needed. The sum over coupled layers is
    taken inside the square, hence per sample: give one gradient per sample (a batch of n then
    counts as one sample). Nothing is normalized; ranked globally.

    Attributes:
        cost: divide by what removing the unit saves: "macs", "memory" (elements of layers' outputs,
            which follows latency better) or "none".
    """

    name = "group-fisher"
    needs = "gradients"
    normalize = "none"
    reduce = "sum"

    cost: str = "memory"

    def __post_init__(self) -> None:
        check_option(self.name, "cost", self.cost, ("macs", "memory", "none"))

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """No layer is rated by itself: the square is taken over all of them."""
        del evidence
        return []

    def scores(
        self, evidence: Evidence, *, reduce: str | None = None, normalize: str | None = None
    ) -> Scores:
        """The accumulated squares; `reduce` other than "sum" and normalization are refused.

        Raises:
            UsageError: gradients are missing, or merging is asked for in another way.
            ModelError: a gradient is not finite.
        """
        if (reduce or "sum", normalize or "none") != ("sum", "none"):
            raise UsageError(
                "importance 'group-fisher' sums coupled layers inside the square; it takes no "
                "merge= but 'sum' and no normalize= but 'none'"
            )
        wanted = evidence.gates()
        total = np.zeros(evidence.channels.unit_count)
        for gradient in evidence.gradients(self.name):
            total += np.square(_of_masks(evidence, wanted, gradient)).sum(0)
        # Units that no known weight reads have no score.
        return np.where(_held(wanted, len(total)), total / self._costs(evidence), np.nan)

    def _costs(self, evidence: Evidence) -> Scores:
        channels = evidence.channels
        if self.cost == "none":
            return np.ones(channels.unit_count)
        cost = (macs_of_units if self.cost == "macs" else memory_of_units)(channels)
        # What costs nothing that is counted (say, in an LSTM) is taken to cost the usual.
        return np.where(cost > 0, cost, cost[cost > 0].mean() if (cost > 0).any() else 1.0)


def _of_masks(evidence: Evidence, wanted: Sequence[Place], gradient: Gradient) -> Scores:
    """dL/dm, (samples, units)."""
    count = evidence.channels.unit_count
    total = np.zeros((1, count))
    for place in wanted:
        rows = evidence.rows(place).astype(np.float64)
        of_rows = np.einsum("ck,nck->nc", rows, evidence.gradient_rows(place, gradient))
        if not np.isfinite(of_rows).all():
            raise ModelError(
                f"layer {place.layer!r}: group-fisher scores are NaN or infinite; look for such "
                f"values in {place.tensor.name!r} and its gradient"
            )
        free = place.units != KEPT_UNIT
        masks = [np.bincount(place.units[free], each[free], count) for each in of_rows]
        total = total + np.stack(masks)
    return total


def _held(wanted: Sequence[Place], count: int) -> Scores:
    held = np.zeros(count + 1, bool)
    for place in wanted:
        held[place.units] = True
    return held[:count]
