"""YOLO's raw maps: at every cell some anchors, each with a box, an objectness and classes.

    xy = (sigmoid(t_xy) * s - (s - 1) / 2 + cell) * stride
    wh = exp(t_wh) * anchor                    YOLOv3 (s = 1), YOLOv4 (s per scale)
    wh = (2 sigmoid(t_wh))^2 * anchor          YOLOv5 (s = 2)
    score = sigmoid(objectness) * sigmoid(class)

Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018; Bochkovskiy et al., "YOLOv4", 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.base import (
    Array,
    Candidates,
    Decoder,
    Shapes,
    by_area,
    corners,
    grid,
    sigmoid,
)
from graphopt.evaluate.nms import Rules

Anchors = tuple[tuple[float, float], ...]  # width and height in pixels

_V3: tuple[Anchors, ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_V4: tuple[Anchors, ...] = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
_TINY: tuple[Anchors, ...] = (
    ((10, 14), (23, 27), (37, 58)),
    ((81, 82), (135, 169), (344, 319)),
)


@dataclass(frozen=True)
class AnchorMaps(Decoder):
    """Raw maps of one scale each; the fields are what the versions differ in.

    Attributes:
        anchors: per scale, finest first.
        scale_xy: s of every scale.
    """

    preprocess: ClassVar[str] = "letterbox, rgb, pad=114"
    rules: ClassVar[Rules] = Rules(iou=0.6)
    squared: ClassVar[bool] = False

    anchors: tuple[Anchors, ...] = _V3
    scale_xy: tuple[float, ...] = (1.0, 1.0, 1.0)

    def check(self) -> None:
        """As many values of s as scales."""
        if len(self.scale_xy) != len(self.anchors):
            raise UsageError(
                f"decoder {self.name}: scale-xy has {len(self.scale_xy)} values for "
                f"{len(self.anchors)} scales of anchors"
            )

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """One map per scale, at the strides of the scales."""
        maps = sorted(outputs.values(), key=lambda s: -int(s[2]) if _is_map(s) else 0)
        if len(maps) != len(self.anchors) or not all(_is_map(s) for s in maps):
            return False
        per_cell = len(self.anchors[0])
        channels = {int(s[1]) for s in maps}
        strides = [size[0] / int(s[2]) for s in maps]
        doubling = all(b == 2 * a for a, b in pairwise(strides))
        return len(channels) == 1 and doubling and _is_yolo(channels.pop(), per_cell)

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """The candidates of all scales together."""
        scales = zip(by_area(outputs), self.anchors, self.scale_xy, strict=True)
        parts = [self._scale(raw, anchors, s, size) for raw, anchors, s in scales]
        boxes = np.concatenate([b for b, _ in parts], axis=1)
        scores = np.concatenate([s for _, s in parts], axis=1)
        return [Candidates(b, s) for b, s in zip(boxes, scores, strict=True)]

    def _scale(
        self, raw: Array, anchors: Anchors, s: float, size: tuple[int, int]
    ) -> tuple[Array, Array]:
        batch, channels, height, width = raw.shape
        cells = raw.reshape(batch, len(anchors), channels // len(anchors), height, width)
        cells = np.moveaxis(cells, 2, -1)
        stride = np.array([size[1] / width, size[0] / height], np.float32)
        xy = (sigmoid(cells[..., :2]) * s - (s - 1) / 2 + grid(height, width)) * stride
        each = np.array(anchors, np.float32).reshape(len(anchors), 1, 1, 2)
        growth = (2 * sigmoid(cells[..., 2:4])) ** 2 if self.squared else _exp(cells[..., 2:4])
        scores = sigmoid(cells[..., 4:5]) * sigmoid(cells[..., 5:])
        boxes = corners(xy, growth * each)
        return boxes.reshape(batch, -1, 4), scores.reshape(batch, -1, scores.shape[-1])


@dataclass(frozen=True)
class Yolov3(AnchorMaps):
    """YOLOv3 and YOLOv3-SPP."""

    name: ClassVar[str] = "yolov3"


@dataclass(frozen=True)
class Yolov3Tiny(AnchorMaps):
    """YOLOv3-tiny: strides 16 and 32."""

    name: ClassVar[str] = "yolov3-tiny"

    anchors: tuple[Anchors, ...] = _TINY
    scale_xy: tuple[float, ...] = (1.0, 1.0)


@dataclass(frozen=True)
class Yolov4(AnchorMaps):
    """YOLOv4: boxes may be centred a little outside their cell."""

    name: ClassVar[str] = "yolov4"

    anchors: tuple[Anchors, ...] = _V4
    scale_xy: tuple[float, ...] = (1.2, 1.1, 1.05)


@dataclass(frozen=True)
class Yolov5(AnchorMaps):
    """YOLOv5 and YOLOv7 before their own decoding."""

    name: ClassVar[str] = "yolov5"
    squared: ClassVar[bool] = True

    scale_xy: tuple[float, ...] = (2.0, 2.0, 2.0)


def _exp(x: Array) -> Array:
    return np.exp(np.minimum(x, 20.0))  # a wild output stays finite


def _is_map(shape: object) -> bool:
    dims = list(shape)  # type: ignore[call-overload]
    return len(dims) == 4 and all(isinstance(d, int) for d in dims[1:])


def _is_yolo(channels: int, anchors: int) -> bool:
    return channels % anchors == 0 and channels // anchors > 5
