"""Which channels of a teacher's tensor a pruned student still has.

The plan says which parameters lost which channels; the channel analysis of the teacher carries that to
every tensor between them, so that every pair is compared channel by channel without an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan
from graphopt.errors import PlanError
from graphopt.ir.graph import Graph
from graphopt.passes.distill.losses import KeptChannels


def kept_channels(
    teacher: Graph, plan: Plan, tensors: Sequence[str], *, axis: int = 1
) -> dict[str, KeptChannels]:
    """For every tensor of the teacher that lost channels, those that are left, in order.

    Args:
        teacher: the graph the plan was made for.
        plan: says what the student lost.
        tensors: names.
        axis: where a tensor has its channels.

    Raises:
        PlanError: the plan is for another graph.
    """
    graph = teacher.copy()
    channels = Channels(graph)
    removed = plan.units(channels)
    gone = channels.gone(removed)
    known = graph.tensors()
    found = {}
    for name in tensors:
        axes = channels.sweep.axes(known[name]) or []
        labels = axes[axis] if axis < len(axes) else None
        if labels is None:
            continue
        lost = gone[channels.units_of(labels)]
        if lost.all():
            raise PlanError(f"the plan leaves no channel of tensor {name!r}")
        if lost.any():
            found[name] = KeptChannels(tuple(np.flatnonzero(~lost).tolist()))
    return found
