"""Regression towards the labels, only where the student is worse than the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.analyze.importance.base import check_option
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_number, refuse
from graphopt.passes.distill.losses.precision import wide


@dataclass(frozen=True)
class TeacherBounded(Loss):
    """L = mean over rows of e_s where e_s + m > e_t, else 0,   e = ||R - y||_2^2.

    Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation, NIPS 2017.
    The teacher's boxes can be wrong and have no bound, so they are never the aim (y, the label, is),
    only the limit up to which the student is pushed. Added to the usual regression loss with weight
    0.5. System 1's KD2 takes the sum over targets, weight 1e-3, m = 0.

    Shapes: (..., D), D = 4 for boxes, the same for student, teacher and `target`; `mask` (...) is 1
    on the rows that have a target. Without any row the loss is 0. In the boxes' unit, squared.

    Attributes:
        margin: m; above 0 the student has to be better than the teacher by as much.
        reduce: "mean" over the rows that count, or "sum".
    """

    name = "teacher-bounded"
    needs = ("target",)
    takes = ("mask",)

    margin: float = 0.0
    reduce: str = "mean"

    def __post_init__(self) -> None:
        check_number(self.name, "margin", self.margin, zero=True)
        check_option(self.name, "reduce", self.reduce, ("mean", "sum"))

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal shapes with a last axis."""
        if tuple(student) != tuple(teacher) or not student or not student[-1]:
            why = "needs equal shapes (rows, 4); pick the matched rows of both alike"
            refuse(self.name, student, teacher, why)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        errors = _errors(student, self._target(student, given))
        bounded = errors * self.worse(student, teacher, given)
        total = (bounded * self._mask(student, given)).sum()
        if self.reduce == "sum":
            return total
        return total / self._mask(student, given).sum().clamp_min(1)

    def worse(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """Where the student is pushed: e_s + m > e_t, booleans (...).

        Its share of the rows with a target should fall in training; worth logging.
        """
        student, teacher = wide(student), wide(teacher)
        target = self._target(student, given)
        return _errors(student, target) + self.margin > _errors(teacher, target)

    def _target(self, student: Tensor, given: Given) -> Tensor:
        if given.target is None or given.target.shape != student.shape:
            shape = None if given.target is None else tuple(given.target.shape)
            raise UsageError(
                f"loss {self.name!r}: target {shape}, student {tuple(student.shape)}: needs one "
                "target per row"
            )
        return given.target.detach().to(student)

    def _mask(self, student: Tensor, given: Given) -> Tensor:
        if given.mask is None:
            return student.new_ones(student.shape[:-1])
        if given.mask.shape != student.shape[:-1]:
            raise UsageError(
                f"loss {self.name!r}: mask {tuple(given.mask.shape)}, student "
                f"{tuple(student.shape)}: needs one value per row"
            )
        return given.mask.detach().to(student)


def _errors(boxes: Tensor, target: Tensor) -> Tensor:
    return (boxes - target).square().sum(-1)
