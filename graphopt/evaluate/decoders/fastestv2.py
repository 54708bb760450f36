"""Yolo-FastestV2: three maps per scale, boxes and objectness per anchor, classes per cell.

xy = (2 sigmoid(t) - 1/2 + cell) * stride,   wh = (2 sigmoid(t))^2 * anchor
score = sigmoid(objectness) * softmax(classes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.evaluate.decoders.base import (
    Array,
    Candidates,
    Decoder,
    Shapes,
    corners,
    grid,
    sigmoid,
)
from graphopt.evaluate.nms import Rules

Anchors = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FastestV2(Decoder):
    """(batch, 4 A, h, w), (batch, A, h, w) and (batch, classes, h, w) at every scale, A anchors.

    Attributes:
        anchors: per scale, finest first, in pixels at 352 x 352.
    """

    name: ClassVar[str] = "yolo-fastestv2"
    preprocess: ClassVar[str] = "stretch, bgr"
    rules: ClassVar[Rules] = Rules(iou=0.45)

    anchors: tuple[Anchors, ...] = (
        ((12.64, 19.39), (37.88, 51.48), (55.71, 138.31)),
        ((126.91, 78.23), (131.57, 214.55), (279.92, 258.87)),
    )

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:  # noqa: ARG002
        """Three maps of every size."""
        shapes = list(outputs.values())
        if len(shapes) != 3 * len(self.anchors) or any(len(s) != 4 for s in shapes):
            return False
        scales = _scales({str(k): s for k, s in enumerate(shapes)}, lambda s: s)
        count = len(self.anchors[0])
        return len(scales) == len(self.anchors) and all(
            len(s) == 3 and sorted(v[1] for v in s)[:2] == [count, 4 * count] for s in scales
        )

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """The candidates of all scales together."""
        scales = _scales(outputs, lambda m: m.shape)
        parts = [
            self._scale(maps, anchors, size)
            for maps, anchors in zip(scales, self.anchors, strict=True)
        ]
        boxes = np.concatenate([b for b, _ in parts], axis=1)
        scores = np.concatenate([s for _, s in parts], axis=1)
        return [Candidates(b, s) for b, s in zip(boxes, scores, strict=True)]

    def _scale(
        self, maps: list[Array], anchors: Anchors, size: tuple[int, int]
    ) -> tuple[Array, Array]:
        count = len(anchors)
        reg = next(m for m in maps if m.shape[1] == 4 * count)
        obj = next(m for m in maps if m.shape[1] == count)
        cls = next(m for m in maps if m is not reg and m is not obj)
        batch, _, height, width = obj.shape
        cells = sigmoid(np.moveaxis(reg.reshape(batch, count, 4, height, width), 2, -1))
        stride = np.array([size[1] / width, size[0] / height], np.float32)
        xy = (2 * cells[..., :2] - 0.5 + grid(height, width)) * stride
        each = np.array(anchors, np.float32).reshape(count, 1, 1, 2)
        boxes = corners(xy, (2 * cells[..., 2:]) ** 2 * each)
        shifted = np.exp(cls - cls.max(1, keepdims=True))
        chances = np.moveaxis(shifted / shifted.sum(1, keepdims=True), 1, -1)[:, None]
        scores = sigmoid(obj)[..., None] * chances
        return boxes.reshape(batch, -1, 4), scores.reshape(batch, -1, cls.shape[1])


def _scales(outputs: Mapping[str, Any], shape_of: Any) -> list[list[Any]]:
    """The outputs of one size together, finest first."""
    found: dict[tuple[int, int], list[Any]] = {}
    for each in outputs.values():
        found.setdefault(tuple(shape_of(each)[2:]), []).append(each)
    return [found[k] for k in sorted(found, reverse=True)]
