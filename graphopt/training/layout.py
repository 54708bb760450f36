"""The order in which a network's weights, and so its images, lie in memory while it trains."""

from __future__ import annotations

import torch
from torch import fx, nn

_OURS = "graphopt"  # what `graphopt.fx` marks its views with


def lay_out(learner: nn.Module, *, model: nn.Module) -> None:
    """Channels last, which most convolutions train faster in: up to a third less time on a CPU.

    For a view of a graph alone. A user's own module may take `view`s of its feature maps, which want
    them in the usual order.

    Args:
        learner: the model with all that trains or runs beside it; changed in place.
        model: what is trained.
    """
    if isinstance(model, fx.GraphModule) and _OURS in model.meta:
        learner.to(memory_format=torch.channels_last)
