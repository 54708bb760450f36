"""The order in which a network's weights, and so its images, lie in memory while it trains."""

from __future__ import annotations

import torch
from torch import fx

from graphopt.training.objective import Learner, Task

_OURS = "graphopt"  # what `graphopt.fx` marks its views with


def lay_out(learner: Learner) -> None:
    """Channels last, which most convolutions train faster in: up to a third less time on a CPU.

    For a view of a graph alone: a user's own module may take `view`s of its feature maps, which want
    them in the usual order. And for a loss of the outputs alone: what losses of feature maps sum up
    per channel takes longer in this order than the convolutions save.

    Args:
        learner: changed in place.
    """
    model = learner.model
    is_ours = isinstance(model, fx.GraphModule) and _OURS in model.meta
    if is_ours and isinstance(learner.objective, Task):
        learner.to(memory_format=torch.channels_last)
