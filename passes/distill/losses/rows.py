"""Rows of classes: what logits, and the heads of detectors, are to a loss over classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.analyze.importance.base import check_option
from graphopt.passes.distill.losses.base import Loss, Shape, refuse

# What a YOLO head says of one anchor: x, y, width, height, objectness, classes.
PARTS = {"all": (0, None), "boxes": (0, 4), "scores": (4, None), "classes": (5, None)}


def yolo_rows(
    head: Tensor, anchors: int, *, part: str = "classes", sigmoid: bool = False
) -> Tensor:
    """What a YOLO head says per anchor and position: (N, A * (5 + C), H, W) -> (N, A * H * W, K).

    Args:
        head: the raw output of one scale, anchor by anchor along axis 1.
        anchors: A.
        part: "classes" (K = C), "scores" (objectness and classes, K = 1 + C), "boxes" (K = 4) or
            "all" (K = 5 + C; also for heads that are classes only, (N, A * C, H, W)).
        sigmoid: put through a sigmoid, for probabilities.

    Raises:
        UsageError: the shape is not one of such a head.
    """
    rows = _rows(head, anchors, part, "yolo_rows")
    return rows.sigmoid() if sigmoid else rows


@dataclass(frozen=True, kw_only=True)
class RowLoss(Loss):
    """Base of losses on rows of values: logits of classes, boxes.

    Shapes: (N, K), (N, rows, K) or (N, A, H, W, K), the same for both; with `anchors`, maps
    (N, A * K, H, W).

    Attributes:
        anchors: how many anchors share axis 1 of a map; 1 for a map of classes.
        part: which of a YOLO head's values: "all", "boxes" (the first 4), "scores" (from 4 on:
            objectness and classes) or "classes" (from 5 on).
    """

    anchors: int | None = None
    part: str = "all"

    def __post_init__(self) -> None:
        check_option(self.name, "part", self.part, tuple(PARTS))
        if self.anchors is not None and self.anchors < 1:
            raise UsageError(f"{self.name}: anchors={self.anchors} is not at least 1")

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal shapes that are rows, with at least one value."""
        if tuple(student) != tuple(teacher):
            refuse(self.name, student, teacher, "needs equal shapes: same images, same outputs")
        width = row_shape(student, self.anchors, self.part, self.name)[2]
        if 0 in student or width < 1:
            refuse(self.name, student, teacher, f"nothing is left for part={self.part}")

    def rows(self, tensor: Tensor) -> Tensor:
        """(N, rows, K)."""
        return _rows(tensor, self.anchors, self.part, self.name)

    def shape(self, shape: Shape) -> tuple[int, int, int]:
        """(N, rows, K) of a tensor of this shape."""
        return row_shape(shape, self.anchors, self.part, self.name)


def row_shape(shape: Shape, anchors: int | None, part: str, name: str) -> tuple[int, int, int]:
    """(N, rows, K) of the rows in a tensor.

    Raises:
        UsageError: the shape does not say where the rows are.
    """
    count, width = _layout(shape, anchors, name)
    start, stop = PARTS[part]
    return shape[0], count, max(0, min(width, stop or width) - start)


def _layout(shape: Shape, anchors: int | None, name: str) -> tuple[int, int]:
    if anchors is None:
        if len(shape) not in (2, 3, 5):
            raise UsageError(
                f"{name}: {tuple(shape)} does not say where its classes are; give anchors= for a "
                "map (images, anchors * classes, height, width), 1 for a plain map of classes"
            )
        return math.prod(shape[1:-1]), shape[-1]
    if len(shape) != 4 or shape[1] % anchors:
        raise UsageError(
            f"{name}: {tuple(shape)} is no map (images, {anchors} * values, height, width); "
            "check anchors="
        )
    return anchors * shape[2] * shape[3], shape[1] // anchors


def _rows(tensor: Tensor, anchors: int | None, part: str, name: str) -> Tensor:
    check_option(name, "part", part, tuple(PARTS))
    count, width = _layout(tuple(tensor.shape), anchors, name)
    if anchors is not None:
        tensor = tensor.unflatten(1, (anchors, width)).movedim(2, -1)
    start, stop = PARTS[part]
    return tensor.reshape(len(tensor), count, width)[..., start:stop]
