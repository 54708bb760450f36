"""What a run makes small: named terms whose sum is the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from graphopt.training.hooks import Moment

Terms = dict[str, Tensor]


class Objective(nn.Module):
    """Base of objectives. What it has of parameters (adapters) is trained too.

    Attributes:
        any_layout: whether it takes feature maps whichever way they lie in memory (`layout.py`).
    """

    any_layout: ClassVar[bool] = False

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        """The terms for one batch, already weighted; their sum is the loss."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """What else belongs into the row of an epoch."""
        return {}

    def beside(self) -> Sequence[nn.Module]:
        """The networks it runs beside the one that is trained."""
        return ()


def usual(values: Any) -> Any:
    """Every tensor among values in the usual order: losses may take `view`s, and sum per channel."""
    return tree_map_only(Tensor, Tensor.contiguous, values)


class Task(Objective):
    """A loss on labelled batches.

        terms = {"task": loss(model(*inputs), *targets)}, or what the loss gives by name

    Args:
        loss: takes the outputs and the targets; one number, or several by name.
        inputs: how many of a batch's tensors are inputs; the rest are targets.
    """

    any_layout: ClassVar[bool] = True

    def __init__(self, loss: Callable[..., Tensor | Mapping[str, Tensor]], inputs: int = 1) -> None:
        super().__init__()
        self.loss, self.inputs = loss, inputs

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        """See the class."""
        outputs = usual(model(*inputs[: self.inputs]))
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
