"""Distillation in a trainer with callbacks, as ultralytics has one: the criterion is wrapped once.

python examples/distill_callbacks.py

`Trainer` below stands for a trainer that is not yours: it owns the loop and calls
`model.loss(batch)`. With ultralytics the same function is added with
`model.add_callback("on_train_start", learn_from(teacher, pairs))`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from graphopt.passes.distill.distillation import Distillation


def learn_from(teacher: nn.Module, pairs: dict[tuple[str, str], str]) -> Callable[[Any], None]:
    """A callback that adds the terms of a distillation to the loss of a trainer's model."""

    def on_train_start(trainer: Any) -> None:
        own_loss = trainer.model.loss
        distillation = Distillation(
            trainer.model, teacher, pairs, example=trainer.example, adapters=False
        )

        def loss(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
            _, terms = distillation.compare(batch["img"])
            total, items = own_loss(batch)
            return total + sum(terms.values()), items | {k: v.item() for k, v in terms.items()}

        trainer.model.loss = loss

    return on_train_start


# --- somebody else's model and trainer ------------------------------------------------------------


class Model(nn.Module):
    """A model that knows its loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.SiLU())
        self.head = nn.Conv2d(width, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raw maps."""
        return self.head(self.body(x))

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and its items."""
        value = functional.mse_loss(self(batch["img"]), batch["target"])
        return value, {"task": value.item()}


class Trainer:
    """Owns the loop."""

    def __init__(self, model: Any, example: torch.Tensor) -> None:
        self.model, self.example = model, example
        self.callbacks: list[Callable[[Any], None]] = []

    def train(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """One epoch."""
        for callback in self.callbacks:
            callback(self)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        items: dict[str, float] = {}
        for batch in batches:
            loss, items = self.model.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return items


def main() -> None:
    """Twenty steps."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 16, 16)
    batches = [{"img": images, "target": torch.zeros(8, 6, 16, 16)}] * 20
    trainer = Trainer(Model(8), images[:2])
    trainer.callbacks.append(
        learn_from(Model(8), {("body", "body"): "pkd", ("head", "head"): "mse{anchors=1}"})
    )
    print(", ".join(f"{name} {value:.3f}" for name, value in trainer.train(batches).items()))


if __name__ == "__main__":
    main()
