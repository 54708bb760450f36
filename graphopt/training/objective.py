"""What a run makes small: named terms whose sum is the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from graphopt.training.hooks import Moment

Terms = dict[str, Tensor]


class Objective(nn.Module):
    """Base of objectives. What it has of parameters (adapters) is trained too."""

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        """The terms for one batch, already weighted; their sum is the loss."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """What else belongs into the row of an epoch."""
        return {}


class Task(Objective):
    """A loss on labelled batches.

        terms = {"task": loss(model(*inputs), *targets)}, or what the loss gives by name

    Args:
        loss: takes the outputs and the targets; one number, or several by name.
        inputs: how many of a batch's tensors are inputs; the rest are targets.
    """

    def __init__(self, loss: Callable[..., Tensor | Mapping[str, Tensor]], inputs: int = 1) -> None:
        super().__init__()
        self.loss, self.inputs = loss, inputs

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        """See the class."""
        # contiguous: a loss of the user's may take `view`s, whichever way the network ran
        outputs: Any = tree_map_only(Tensor, Tensor.contiguous, model(*inputs[: self.inputs]))
        found = self.loss(outputs, *inputs[self.inputs :])
        return {"task": found} if isinstance(found, Tensor) else dict(found)


class Learner(nn.Module):
    """Model and objective as one module, so that processes synchronize every trained parameter."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        """The objective's terms."""
        terms: Terms = self.objective(self.model, inputs, at)
        return terms
