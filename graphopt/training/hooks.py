"""What can take part in a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Moment:
    """Where a run stands.

    Attributes:
        step: optimizer steps done, from 0.
        steps: how many there are in all.
        steps_per_epoch: so many are an epoch.
        learning_rate: of this step.
    """

    step: int
    steps: int
    steps_per_epoch: int
    learning_rate: float

    @property
    def epoch(self) -> float:
        """Epochs done, with fraction."""
        return self.step / self.steps_per_epoch

    @property
    def done(self) -> float:
        """The share of the run that is done."""
        return self.step / self.steps


class Hook:
    """Base of what acts between the parts of a step; override what is needed."""

    def before_step(self, model: nn.Module, at: Moment) -> None:
        """Nothing has been computed yet."""

    def after_backward(self, model: nn.Module, at: Moment) -> None:
        """Gradients are there, unscaled and summed over processes; the optimizer has not stepped."""

    def after_step(self, model: nn.Module, at: Moment) -> None:
        """The optimizer has stepped."""

    def after_epoch(self, model: nn.Module, at: Moment) -> dict[str, float]:
        """Numbers for the row of the epoch."""
        return {}

    def status(self) -> str:
        """A few characters for the progress line."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What has to survive an interruption."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up `state_dict()`."""
