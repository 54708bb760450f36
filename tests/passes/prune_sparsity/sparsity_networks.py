"""Small networks under pressure, and the gradient the pressure should have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.passes.prune.sparsity import Sparsity
from graphopt.training import History, Objective, Recipe, Terms, Trainer
from graphopt.training.hooks import Moment

# g0 and g1 are coupled by the addition, g2 stands alone, and what g3 scales is an output.
RESIDUAL = """(float[N,3,8,8] x) => (float[N,5,8,8] y)
    <float[6,3,3,3] w0, float[6] g0, float[6] b0, float[6] m0, float[6] var0,
     float[6,6,3,3] w1, float[6] g1, float[6] b1, float[6] m1, float[6] var1,
     float[4,6,3,3] w2, float[4] g2, float[4] b2, float[4] m2, float[4] var2,
     float[5,4,1,1] w3, float[5] g3, float[5] b3, float[5] m3, float[5] var3>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  s = BatchNormalization (a, g0, b0, m0, var0)
      r = Relu (s)
      b = Conv <pads = [1,1,1,1]> (r, w1)  t = BatchNormalization (b, g1, b1, m1, var1)
      u = Add (r, t)
      c = Conv <pads = [1,1,1,1]> (u, w2)  d = BatchNormalization (c, g2, b2, m2, var2)
      e = Relu (d)
      f = Conv (e, w3)  y = BatchNormalization (f, g3, b3, m3, var3) }"""
PLAIN = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[6,3,3,3] w0, float[6] c0, float[6,6,3,3] w1, float[4,6,3,3] w2, float[5,4] w3>
    { a = Conv <pads = [1,1,1,1]> (x, w0, c0)  r = Relu (a)
      b = Conv <pads = [1,1,1,1]> (r, w1)  u = Add (r, b)
      c = Conv <pads = [1,1,1,1]> (u, w2)  e = Relu (c)
      p = GlobalAveragePool (e)  f = Flatten (p)  y = Gemm <transB = 1> (f, w3) }"""


def images(count: int = 16) -> Any:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


class Rows:
    """The rows of an array as samples of the input x."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.array[index]}


class Pulled(nn.Module):
    """One BatchNorm with gammas that a loss pulls to targets of their own."""

    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(len(targets))
        self.register_buffer("targets", targets)
        with torch.no_grad():
            self.norm.weight.copy_(targets)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.norm.weight - self.targets).square().sum()


class Own(Objective):
    """The loss is what the model returns."""

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        return {"loss": model(inputs[0]).float().square().mean()}


class Returned(Objective):
    """Likewise, as it is."""

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        return {"loss": model(inputs[0])}


def train(
    model: nn.Module,
    hooks: Sequence[Any],
    *,
    objective: Objective | None = None,
    folder: Any = None,
    **recipe: Any,
) -> History:
    settings = {"epochs": 2, "batch": 4, "workers": 0, "augment": "none", "lr": 0.05, **recipe}
    trainer = Trainer(
        model,
        objective or Own(),
        Rows(images()),
        ["x"],
        Recipe(**settings),
        hooks=hooks,
        folder=folder,
        device="cpu",
    )
    return trainer.run()


def pressure(sparsity: Sparsity, done: float = 0.0) -> list[Tensor]:
    """What is added to the gradients of every pressed parameter."""
    for each in sparsity.units.slices:
        each.parameter.grad = None
    sparsity.add(done)
    return [each.parameter.grad.clone() for each in sparsity.units.slices]


def gradient(of: Callable[[], Tensor], parameter: nn.Parameter) -> Tensor:
    return torch.autograd.grad(of(), parameter)[0]
