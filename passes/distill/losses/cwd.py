"""Where each channel answers, as a distribution over positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (what everyone calls it)
from torch import Tensor

from graphopt.passes.distill.losses.base import (
    Given,
    Loss,
    Shape,
    check_maps,
    check_number,
    refuse,
)


@dataclass(frozen=True)
class Cwd(Loss):
    """L = T^2 / (N * C) * sum_nc sum_i q_t[i] * log(q_t[i] / q_s[i]),   q = softmax_hw(F_nc / T).

    Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021. Blind to an
    offset of a channel. In nats. Published: T = 1 and weight 10 on pyramid levels, 5 on
    segmentation logits.

    Shapes: (N, C, H, W) both, equal, at least two positions.

    Attributes:
        temperature: T.
    """

    name = "cwd"
    takes = ("channels",)

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.name, "temperature", self.temperature)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal feature maps with more than one position."""
        check_maps(self.name, student, teacher)
        if all(size == 1 for size in student[2:]):
            refuse(self.name, student, teacher, "a softmax over one position is always 1")

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        log_s, log_t = (
            F.log_softmax(f.flatten(2) / self.temperature, 2) for f in (student, teacher)
        )
        return (log_t.exp() * (log_t - log_s)).sum(2).mean() * self.temperature**2
