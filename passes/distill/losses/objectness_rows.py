"""The same as `objectness-scaled` for networks whose outputs are rows of boxes and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_number, refuse
from graphopt.passes.distill.losses.objectness_scaled import LEAST_SEEN

UNITS = ("pixels", "cells")
_LEAST_SIZE = 1e-3  # pixels, whose logarithm is taken
_LEAST_STEP = 1.0  # pixels, in which places are measured


@dataclass(frozen=True)
class ObjectnessRows(Loss):
    """L = 1 / O * sum over rows of [ KL(o_t, o_s) + o_t (box d(b_s, b_t) + classes KL(p_t, p_s)) ].

    The rows of an export that decodes its boxes: o and p are probabilities already, KL that of coins,
    O = sum o_t, at least 1. After Mehta and Ozturk, "Object detection at 200 Frames Per Second", ECCV
    workshops 2018; see `objectness-scaled` for raw maps, whose errors of boxes are in cells where these

        d = |(x, y)_s - (x, y)_t|^2 / (w, h)_t^2 + |log (w, h)_s - log (w, h)_t|^2        units=pixels

    are in sizes of the teacher's box. With units=cells (YOLOX, which leaves the grid out) d is the plain
    square of x, y, log w, log h.

    Shapes: (N, rows, 5 + C), the same for both: centre, size, objectness, classes.

    Attributes:
        units: "pixels" or "cells".
        box, classes: what the terms count beside the objectness.
    """

    name = "objectness-rows"

    units: str = "pixels"
    box: float = 1.0
    classes: float = 1.0

    def __post_init__(self) -> None:
        if self.units not in UNITS:
            raise UsageError(f"{self.name}: units={self.units!r} is none of {', '.join(UNITS)}")
        check_number(self.name, "box", self.box, zero=True)
        check_number(self.name, "classes", self.classes, zero=True)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal rows with a box and an objectness."""
        if tuple(student) != tuple(teacher) or len(student) != 3 or student[2] < 5:
            refuse(self.name, student, teacher, "needs equal rows (N, rows, 5 + C)")
        if 0 in student:
            refuse(self.name, student, teacher, "needs at least one value; skip empty batches")

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        seen = teacher[..., 4].clamp(0, 1)
        apart = self.box * self._boxes(student[..., :4], teacher[..., :4])
        if student.shape[-1] > 5:
            apart = apart + self.classes * _coins(student[..., 5:], teacher[..., 5:]).sum(-1)
        total = (_coins(student[..., 4], teacher[..., 4]) + seen * apart).sum()
        return total / seen.sum().clamp_min(LEAST_SEEN)

    def _boxes(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.units == "cells":
            return (student - teacher).square().sum(-1)
        mine, size = (b[..., 2:].clamp_min(_LEAST_SIZE) for b in (student, teacher))
        places = (student[..., :2] - teacher[..., :2]) / size.clamp_min(_LEAST_STEP)
        growth = (mine / size).log()
        return torch.cat((places, growth), -1).square().sum(-1)


def _coins(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_t, p_s) of coins given as probabilities; what rounding put beside [0, 1] is moved there."""
    p = teacher.clamp(0, 1)
    entropy = functional.binary_cross_entropy(p, p, reduction="none")
    return functional.binary_cross_entropy(student.clamp(0, 1), p, reduction="none") - entropy
