"""Distillation in a LightningModule: the student is yours, the loss has a second part.

python examples/distill_lightning.py          (says so and ends where lightning is not installed)
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from graphopt.passes.distill.distillation import Distillation

try:
    import lightning
except ImportError:
    print("lightning is not installed: nothing to show")
    sys.exit(0)


def network(width: int) -> nn.Sequential:
    """A small classifier; submodule "5" gives its logits."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


class Student(lightning.LightningModule):
    """Trains on labels and on a teacher."""

    def __init__(self, teacher: nn.Module, example: torch.Tensor) -> None:
        """`teacher` is never trained; Lightning does not see it."""
        super().__init__()
        self.network = network(4)
        self.distillation = Distillation(
            self.network, teacher, {("5", "5"): "kl{temperature=4}"}, example=example
        )

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Labels and teacher."""
        images, labels = batch
        outputs, terms = self.distillation.compare(images)
        self.log_dict(terms)
        return functional.cross_entropy(outputs, labels) + sum(terms.values())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adapters, if there are any, are among the parameters."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    """A few steps on random images."""
    torch.manual_seed(0)
    images = torch.randn(64, 3, 16, 16)
    data = TensorDataset(images, images.mean((2, 3)).argmax(1))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(Student(network(16), images[:2]), DataLoader(data, batch_size=16))
    print(f"loss terms: {', '.join(trainer.callback_metrics)}")


if __name__ == "__main__":
    main()
