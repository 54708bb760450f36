"""A hint: the student's features are to be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.distill.losses.base import (
    Given,
    Loss,
    Shape,
    check_maps,
    check_reduce,
    reduced_squares,
)


@dataclass(frozen=True)
class Hint(Loss):
    """L = 1/2 * mean (F_s - F_t)^2.

    Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015: "batch" is the paper's
    1/2 * ||F_s - F_t||^2 per image, which grows with channels and positions. The paper's regressor
    is an adapter behind the student; a pruned student needs none with `channels`.

    Shapes: (N, C, ...) both, equal.

    Attributes:
        reduce: "mean" over values, "batch" (their sum / images) or "sum".
    """

    name = "hint"
    any_layout = True
    takes = ("channels",)

    reduce: str = "mean"

    def __post_init__(self) -> None:
        check_reduce(self.name, self.reduce)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal feature maps."""
        check_maps(self.name, student, teacher, least=2)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        return reduced_squares(student, teacher, self.reduce) / 2
