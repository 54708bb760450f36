"""How a network is trained, as data."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UsageError
from graphopt.named import read_options, unknown
from graphopt.pass_base import as_kind

_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "step", "linear", "constant"),
    "precision": ("no", "fp16", "bf16"),
    "on_bad": ("stop", "skip"),
}
_RATES = {"sgd": 0.005, "adamw": 1e-3}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run. Two runs with one recipe give the same bits on one machine.

    Attributes:
        epochs: passes over the data.
        batch: samples per step and process.
        optimizer: "sgd" (Nesterov) or "adamw".
        lr: the highest learning rate; 0.005 for sgd and 0.001 for adamw if left out.
        momentum: of sgd; the first beta of adamw.
        weight_decay: on weights of two and more dimensions only: not on BatchNorms and biases.
        schedule: of the learning rate after the warm-up: "cosine" and "linear" fall to `floor`, "step"
            is multiplied by 0.1 after 70 % and 90 % of the steps, "constant" stays.
        floor: the last learning rate as a share of the highest.
        warmup: epochs (or parts of one) in which the learning rate rises from zero.
        ema: decay of the moving average of the weights that is kept in the end; 0 for none.
        accumulate: batches per step.
        clip: largest norm of all gradients together; 0 for no limit.
        precision: "no", "fp16" or "bf16" for automatic mixed precision.
        seed: of the order of samples, of augmentations and of dropout.
        workers: processes that read samples.
        augment: see `graphopt.training.augment`; "none" for nothing.
        on_bad: what to do about a sample that cannot be read or a loss that is not finite: "stop"
            or "skip" (counted and shown).
        save_every: steps between checkpoints; 0 lets their cost decide (at most 5 % of the time).
    """

    epochs: float = 5.0
    batch: int = 32
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    floor: float = 0.01
    warmup: float = 0.1
    ema: float = 0.0
    accumulate: int = 1
    clip: float = 0.0
    precision: str = "no"
    seed: int = 0
    workers: int = 2
    augment: str = "flip shift=0.1"
    on_bad: str = "stop"
    save_every: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(unknown(name.replace("_", "-"), getattr(self, name), known))
        least = {
            "epochs": 0,
            "batch": 1,
            "accumulate": 1,
            "workers": 0,
            "save_every": 0,
            "warmup": 0,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"recipe: {name}={getattr(self, name)} is below {low}")
        for name in ("momentum", "ema", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"recipe: {name}={getattr(self, name)} is not between 0 and 1")

    @classmethod
    def parse(cls, text: str, **more: Any) -> Recipe:
        """A recipe from "epochs=5 lr=0.01"; `more` are defaults for what the text leaves out.

        Raises:
            UsageError: an option there is not, or a value that cannot be meant.
        """
        kinds = typing.get_type_hints(cls)
        names = {f.name.replace("_", "-"): f.name for f in dataclasses.fields(cls)}
        values = dict(more)
        for key, value in read_options(text, "recipe").items():
            field = names.get(key.replace("_", "-"))
            if field is None:
                raise UsageError(unknown("option of a recipe", key, names))
            values[field] = as_kind(value, kinds[field], f"recipe: {key}")
        return cls(**values)

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return _RATES[self.optimizer] if self.lr is None else self.lr

    def learning_rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, a pure function of where it stands.

        Args:
            step: from 0.
            steps: how many there are.
            steps_per_epoch: so many are an epoch.
        """
        warm = min(round(self.warmup * steps_per_epoch), steps // 2)
        if step < warm:
            return self.rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(steps - warm, 1)
        return self.rate * self._factor(done)

    def _factor(self, done: float) -> float:
        if self.schedule == "cosine":
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "linear":
            return 1 - (1 - self.floor) * done
        if self.schedule == "step":
            return float(0.1 ** ((done >= 0.7) + (done >= 0.9)))
        return 1.0
