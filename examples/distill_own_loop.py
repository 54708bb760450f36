"""Distillation in a training loop of your own: any two modules, pairs of submodules by name.

python examples/distill_own_loop.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.term import Term


def network(width: int) -> nn.Sequential:
    """A small classifier; submodule "4" is its last feature map, "7" its logits."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 4),
    )


def main() -> None:
    """Trains a narrow network on labels and on what a wide one does."""
    torch.manual_seed(0)
    images = torch.randn(64, 3, 16, 16)
    labels = images.mean((2, 3)).argmax(1)
    teacher, student = network(16), network(4)

    # From here on it is ten lines: what is compared, and one more summand in the loss.
    distillation = Distillation(
        student,
        teacher,
        {("7", "7"): "kl{temperature=4}", ("4", "4"): Term("spatial-attention", weight=10)},
        example=images[:2],
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for step in range(30):
        outputs, terms = distillation.compare(images)
        loss = functional.cross_entropy(outputs, labels) + sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            numbers = ", ".join(f"{name} {value.item():.3f}" for name, value in terms.items())
            print(f"step {step + 1}: loss {loss.item():.3f} ({numbers})")


if __name__ == "__main__":
    main()
