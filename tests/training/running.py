"""A small run, and the same in a process of its own that can be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.training import History, Hook, Objective, Recipe, Terms, Trainer
from graphopt.training.hooks import Moment


class Blobs:
    """Images of two classes that differ by their mean, with the class."""

    def __init__(self, count: int = 48) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 2, count)
        noise = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
        self.images = noise + self.labels[:, None, None, None].astype(np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.images[index], "label": np.int64(self.labels[index])}


class Classify(Objective):
    """Cross-entropy, and a second term to see that both are summed."""

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        scores = model(inputs[0])
        return {
            "class": nn.functional.cross_entropy(scores, inputs[1]),
            "size": 1e-3 * scores.square().mean(),
        }


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def train(
    folder: Path | None = None, *, hooks: tuple[Hook, ...] = (), **recipe: Any
) -> tuple[nn.Module, History]:
    settings = {"epochs": 4, "batch": 8, "lr": 0.1, "workers": 0, "seed": 3, "ema": 0.9, **recipe}
    model = network()
    trainer = Trainer(
        model,
        Classify(),
        Blobs(),
        ["x", "label"],
        Recipe(**settings),
        folder=folder,
        hooks=hooks,
        device="cpu",
    )
    return model, trainer.run()


class Slow(Hook):
    """Makes a run long enough to be interrupted, and says where it stands."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def after_step(self, model: nn.Module, at: Moment) -> None:
        sys.stdout.write(f"step {at.step}\n")
        sys.stdout.flush()
        time.sleep(self.seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        train(Path(sys.argv[1]), hooks=(Slow(0.1),), save_every=1)
    except KeyboardInterrupt:
        sys.stdout.write("interrupted\n")
        raise SystemExit(130) from None
