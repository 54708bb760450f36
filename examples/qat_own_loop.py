"""Training through rounding in a loop of your own, on labels: a module in, a file of integers out.

python examples/qat_own_loop.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

import graphopt
from graphopt.passes.quantize.learn import grids_of, learn_grids, write_back


def network() -> nn.Sequential:
    """A small classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def main() -> None:
    """Rounds an untrained network, trains it rounded, and stores it in integers."""
    torch.manual_seed(0)
    images = torch.randn(64, 3, 16, 16)
    labels = images.mean((2, 3)).argmax(1)
    graph = graphopt.from_torch(network().eval(), images[:2])

    # Where integers will be computed, and with which scales: measured on a few images.
    rounding, storing = graphopt.quantizing([images.numpy()], repair="none", first=True, last=True)
    graph = graphopt.Pipeline([*graphopt.default_passes(), rounding]).run(graph).graph

    # From here on it is a module with parameters like any other; the scales are among them.
    view = graphopt.to_fx(graph)
    learn_grids(view, graph, images[:2])
    optimizer = torch.optim.Adam(view.parameters(), lr=1e-2)
    for step in range(60):
        if step == 40:  # the scales have settled: the weights have the rest of the time
            for grid in grids_of(view).values():
                grid.requires_grad_(False)
        loss = functional.cross_entropy(view(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            print(f"step {step + 1}: loss {loss.item():.3f}")

    write_back(view, graph)
    stored = graphopt.Pipeline([storing]).run(graph).graph
    graphopt.save(stored, "integers.onnx")
    print(f"{graphopt.cost_of(stored).weight_bytes} bytes of weights in integers.onnx")


if __name__ == "__main__":
    main()
