"""One of several processes that train together under pressure; prints where its gammas end."""

from __future__ import annotations

import sys

import torch
from sparsity_networks import Own, train
from torch import Tensor, nn

from graphopt.passes.prune.sparsity import GammaSparsity


class Scaled(nn.Module):
    """Gammas without the statistics of a batch, which differ between processes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -0.8, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.norm.weight[:, None, None] + self.norm.bias[:, None, None] - 0.5 * x


def run(batch: int) -> list[float]:
    """The gammas in the end."""
    model = Scaled()
    sparsity = GammaSparsity.for_module(model, s=0.3, schedule="local-decay{top=0.4}")
    train(model, [sparsity], objective=Own(), batch=batch, epochs=3)
    found: list[float] = model.norm.weight.tolist()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(" ".join(v.hex() for v in run(int(sys.argv[1]))) + "\n")
