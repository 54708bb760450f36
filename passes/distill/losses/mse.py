"""Outputs alike: the mean square between the outputs of student and teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.distill.losses.base import Given, check_reduce, reduced_squares
from graphopt.passes.distill.losses.rows import RowLoss


@dataclass(frozen=True)
class Mse(RowLoss):
    """L = mean (z_s - z_t)^2.

    Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, on logits. KD3 of system 1 uses it
    on boxes: `mse{anchors=3 part=boxes reduce=batch}`. In the outputs' unit, squared.

    Shapes: as `RowLoss` describes.

    Attributes:
        reduce: "mean" over values, "batch" (their sum / images) or "sum".
    """

    name = "mse"
    any_layout = True

    reduce: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self.name, self.reduce)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        return reduced_squares(self.rows(student), self.rows(teacher), self.reduce)
