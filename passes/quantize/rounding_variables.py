"""Rounding up or down as variables that have gradients.

    w_r = s clip(floor(w / s) + h(V), low, high),   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)

V starts where w_r = w, and is driven by lambda sum(1 - |2 h - 1|^beta) to where h is 0 or 1, beta
falling from 20, where it leaves all but the decided alone, to 2 (Nagel et al., "Up or Down? Adaptive
Rounding for Post-Training Quantization", ICML 2020, eq. 21-24).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_STRETCH = (-0.1, 1.1)  # h reaches 0 and 1 at finite V
_BETA = (20.0, 2.0)
_WARM = 0.2  # of the iterations, without the regularizer
_BATCH = 256  # positions

Activation = Callable[[Tensor], Tensor]


class RoundingVariables(nn.Module):
    """One variable per weight, for symmetric grids."""

    def __init__(self, weight: Tensor, scale: Tensor, low: int, high: int) -> None:
        """`scale` broadcasts against `weight`; `low` and `high` are the integers in use."""
        super().__init__()
        steps = weight / scale
        below = steps.floor()
        share = ((steps - below) - _STRETCH[0]) / (_STRETCH[1] - _STRETCH[0])
        self.variable = nn.Parameter(torch.logit(share))
        self.scale, self.below, self.low, self.high = scale, below, low, high

    def up(self) -> Tensor:
        """h: how far each weight is rounded up, 0 to 1."""
        stretched = torch.sigmoid(self.variable) * (_STRETCH[1] - _STRETCH[0]) + _STRETCH[0]
        return stretched.clamp(0, 1)

    def weight(self, up: Tensor) -> Tensor:
        """The weight for some h."""
        return (self.below + up).clamp(self.low, self.high) * self.scale

    def forward(self) -> Tensor:
        """The weight as it stands."""
        return self.weight(self.up())

    def integers(self) -> Tensor:
        """The integers that h has been driven to."""
        return (self.below + (self.up() >= 0.5)).clamp(self.low, self.high)


def undecided(up: Tensor, progress: float) -> Tensor:
    """sum(1 - |2 h - 1|^beta), beta falling along half a cosine as `progress` goes from 0 to 1."""
    first, last = _BETA
    beta = last + 0.5 * (first - last) * (1 + math.cos(math.pi * progress))
    return (1 - (2 * up - 1).abs().pow(beta)).sum()


def pull(variables: Sequence[RoundingVariables], done: float) -> Tensor:
    """How undecided some weights are, for the loss; 0 in the first of the iterations.

    Args:
        variables: of the weights.
        done: the share of the iterations that is over.
    """
    if done < _WARM:
        return torch.zeros(())
    past = (done - _WARM) / (1 - _WARM)
    return torch.stack([undecided(v.up(), past) for v in variables]).sum()


@dataclass(frozen=True)
class Problem:
    """A layer as a matrix product at sampled positions, group by group.

    Attributes:
        patches: (groups, positions, elements) what it reads in the rounded network.
        wanted: (groups, positions, outputs) what it gives out in the float network.
        bias: (groups, 1, outputs).
        activation: what its result is seen through.
    """

    patches: Tensor
    wanted: Tensor
    bias: Tensor
    activation: Activation

    @property
    def seen(self) -> int:
        """How many positions are trained on: all but the last eighth, which is held out."""
        count = self.patches.shape[1]
        return max(1, count - count // 8)

    @property
    def rest(self) -> slice:
        """The positions that are held out; all where there are too few."""
        return slice(self.seen if self.seen < self.patches.shape[1] else 0, None)

    def loss(self, weight: Tensor, part: slice) -> Tensor:
        """Mean over positions of |f(W x + b) - f(y)|^2, at some of the positions."""
        made = torch.baddbmm(self.bias, self.patches[:, part], weight.transpose(1, 2))
        error = self.activation(made) - self.activation(self.wanted[:, part])
        return error.square().sum() / error.shape[1]


@dataclass(frozen=True)
class Fitted:
    """What came of it: integers, and the losses at positions that were not trained on."""

    integers: Tensor
    nearest: float
    found: float


def fit(
    variables: RoundingVariables,
    problems: Sequence[Problem],
    *,
    iterations: int,
    rate: float,
    strength: float,
) -> Fitted:
    """Chooses up or down for a weight.

    Args:
        variables: of the weight, (groups, outputs, elements).
        problems: the layers that read it, their positions in drawn order.
        iterations: steps of Adam, each on so many positions of every layer.
        rate: of Adam.
        strength: lambda, beside a loss in units of nearest rounding's per weight.
    """

    def total(weight: Tensor, parts: Sequence[slice]) -> Tensor:
        return torch.stack(
            [p.loss(weight, part) for p, part in zip(problems, parts, strict=True)]
        ).sum()

    rest = [p.rest for p in problems]
    nearest = variables.integers()
    with torch.no_grad():
        whole = [slice(0, p.seen) for p in problems]
        unit = float(total(nearest * variables.scale, whole)) / nearest.numel()
        before = float(total(nearest * variables.scale, rest))
    if not 0 < unit < math.inf:
        return Fitted(nearest, before, before)
    optimizer = torch.optim.Adam(variables.parameters(), lr=rate)
    for step in range(iterations):
        parts = [_part(p.seen, step) for p in problems]
        loss = total(variables(), parts) / unit
        loss = loss + strength * pull([variables], step / iterations)
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
    with torch.no_grad():
        integers = variables.integers()
        return Fitted(integers, before, float(total(integers * variables.scale, rest)))


def _part(count: int, step: int) -> slice:
    start = (step * _BATCH) % count
    return slice(start, min(start + _BATCH, count))
