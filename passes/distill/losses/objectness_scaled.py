"""What a YOLO head says where the teacher sees something, and how sure it is everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_number, refuse
from graphopt.passes.distill.losses.rows import yolo_rows

LEAST_SEEN = 1.0  # teacher's objectness in a batch below which a batch shows nothing


@dataclass(frozen=True)
class ObjectnessScaled(Loss):
    """L = 1 / O * sum over anchors of [ KL(o_t, o_s) + o_t (box |b_s - b_t|^2 + classes KL(p_t, p_s)) ],

        o = sigmoid(objectness), p = sigmoid(class), b = (sigmoid(x), sigmoid(y), w, h), O = sum o_t,

    with KL of coins, KL(p, q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q)), summed over classes.
    After Mehta and Ozturk, "Object detection at 200 Frames Per Second", ECCV workshops 2018: where
    the teacher sees nothing its boxes and classes are noise, and most of a head is such places. (Their
    terms are squared errors.) Dividing by the teacher's objectness makes it a loss per object, which
    depends neither on the input's size nor on how many places there are.

    Shapes: raw maps (N, A * (5 + C), H, W), the same for both; O is at least 1.

    Attributes:
        anchors: A.
        box, classes: what the terms count beside the objectness.
    """

    name = "objectness-scaled"

    anchors: int = 3
    box: float = 1.0
    classes: float = 1.0

    def __post_init__(self) -> None:
        if self.anchors < 1:
            raise UsageError(f"{self.name}: anchors={self.anchors} is not at least 1")
        check_number(self.name, "box", self.box, zero=True)
        check_number(self.name, "classes", self.classes, zero=True)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal raw maps with a box and an objectness per anchor."""
        if tuple(student) != tuple(teacher) or len(student) != 4:
            refuse(self.name, student, teacher, "needs equal raw maps (N, A * (5 + C), H, W)")
        if 0 in student:
            refuse(self.name, student, teacher, "needs at least one value; skip empty batches")
        if student[1] % self.anchors or student[1] // self.anchors < 5:
            why = f"{student[1]} channels are not {self.anchors} anchors of at least 5 values"
            refuse(self.name, student, teacher, why)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        mine, theirs = (yolo_rows(z, self.anchors, part="all") for z in (student, teacher))
        seen = theirs[..., 4].sigmoid()
        apart = self.box * (_units(mine) - _units(theirs)).square().sum(-1)
        if mine.shape[-1] > 5:
            apart = apart + self.classes * _coins(mine[..., 5:], theirs[..., 5:]).sum(-1)
        total = (_coins(mine[..., 4], theirs[..., 4]) + seen * apart).sum()
        return total / seen.sum().clamp_min(LEAST_SEEN)


def _units(rows: Tensor) -> Tensor:
    """The box of rows as the decoder sees it: places in cells, sizes as logarithms."""
    return torch.cat((rows[..., :2].sigmoid(), rows[..., 2:4]), dim=-1)


def _coins(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_t, p_s) of coins given as logits."""
    p = teacher.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(teacher, p, reduction="none")
    return functional.binary_cross_entropy_with_logits(student, p, reduction="none") - entropy
