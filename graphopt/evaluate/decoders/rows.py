"""Detectors whose outputs are one row per candidate: centre, size, objectness, classes.

YOLOX, with a grid but no anchors (Ge et al., "YOLOX: Exceeding YOLO Series in 2021"):
    xy = (p + cell) * stride,   wh = exp(p) * stride,   score = objectness * class, sigmoid taken

Decoded in the graph, as the zoo's YOLOs with `decode=True` and YOLOv5's own exports:
    xy, wh in pixels,   score = objectness * class
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.evaluate.decoders.base import Array, Candidates, Decoder, Shapes, corners, grid

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Yolox(Decoder):
    """One row per cell of all scales."""

    name: ClassVar[str] = "yolox"
    preprocess: ClassVar[str] = "letterbox, top-left, bgr, scale=1, pad=114"
    every_class: ClassVar[bool] = False

    strides: tuple[int, ...] = STRIDES

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """As many rows as cells."""
        rows = sum(-(-size[0] // s) * -(-size[1] // s) for s in self.strides)
        return _row_count(outputs) == rows

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """The candidates of all scales."""
        (rows,) = outputs.values()
        cells, strides = [], []
        for stride in self.strides:
            each = grid(-(-size[0] // stride), -(-size[1] // stride)).reshape(-1, 2)
            cells.append(each)
            strides.append(np.full((len(each), 1), stride, np.float32))
        step = np.concatenate(strides)
        xy = (rows[..., :2] + np.concatenate(cells)) * step
        wh = np.exp(np.minimum(rows[..., 2:4], 20.0)) * step
        return _candidates(corners(xy, wh), rows)


@dataclass(frozen=True)
class Decoded(Decoder):
    """Rows in pixels."""

    name: ClassVar[str] = "decoded"

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """Three rows for every cell of two or three scales."""
        areas = [-(-size[0] // s) * -(-size[1] // s) for s in STRIDES]
        return _row_count(outputs) in (3 * sum(areas), 3 * sum(areas[1:]))

    def decode(
        self,
        outputs: Mapping[str, Array],
        size: tuple[int, int],  # noqa: ARG002
    ) -> list[Candidates]:
        """The rows as they are."""
        (rows,) = outputs.values()
        return _candidates(corners(rows[..., :2], rows[..., 2:4]), rows)


def _row_count(outputs: Shapes) -> int | None:
    shapes = list(outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 3 or not isinstance(shapes[0][2], int):
        return None
    count = shapes[0][1]
    return count if isinstance(count, int) and shapes[0][2] > 5 else None


def _candidates(boxes: Array, rows: Array) -> list[Candidates]:
    scores = rows[..., 4:5] * rows[..., 5:]
    return [Candidates(b, s) for b, s in zip(boxes, scores, strict=True)]
