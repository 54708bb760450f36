"""Soft classes: how far the student's distribution over classes is from the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (what everyone calls it)
from torch import Tensor

from graphopt.passes.distill.losses.base import (
    Given,
    Shape,
    check_number,
    check_reduce,
    reduced,
    refuse,
)
from graphopt.passes.distill.losses.rows import RowLoss


@dataclass(frozen=True)
class Kl(RowLoss):
    """L = T^2 * mean over rows of sum_c p_t[c] * log(p_t[c] / p_s[c]),   p = softmax(z / T).

    Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015. T^2 keeps the size of
    the gradient, T * (p_s - p_t) per row, while T goes up. In nats. Blind to an offset per row.

    YOLO repositories use it on raw heads, T = 3 (system 1): their KD1 is
    `kl{temperature=3 anchors=3 reduce=batch}` with weight 1e-3, over whole rows, boxes too; KD2
    adds `part=scores`, objectness and classes, with weight 1e-4. "batch" grows with the number of
    positions; with "mean" one weight serves all input sizes.

    Shapes: logits as `RowLoss` describes, with at least two classes.

    Attributes:
        temperature: T.
        reduce: "mean" over rows, "batch" (their sum / images) or "sum".
    """

    name = "kl"

    temperature: float = 4.0
    reduce: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "temperature", self.temperature)
        check_reduce(self.name, self.reduce)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Rows of at least two classes."""
        super().check(student, teacher)
        if self.shape(student)[2] < 2:
            why = "a softmax over one class is always 1; use part=scores, or another loss"
            refuse(self.name, student, teacher, why)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        log_s, log_t = (
            F.log_softmax(self.rows(z) / self.temperature, -1) for z in (student, teacher)
        )
        rows = (log_t.exp() * (log_t - log_s)).sum(-1)
        return reduced(rows, self.reduce) * self.temperature**2
