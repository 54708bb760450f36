"""FastestDet: one map, one box per cell.

    score = objectness^0.6 * class^0.4
    cx = (tanh(t_x) + column) / width,  cy likewise,  w, h = sigmoid(t): fractions of the image

The objectness and the classes of the map are probabilities already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True)
class FastestDet(Decoder):
    """(batch, 1 + 4 + classes, height, width): objectness, box, classes."""

    name: ClassVar[str] = "fastestdet"
    preprocess: ClassVar[str] = "stretch, bgr"
    rules: ClassVar[Rules] = Rules(iou=0.5)

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """One map at stride 16."""
        shapes = list(outputs.values())
        if len(shapes) != 1 or len(shapes[0]) != 4:
            return False
        _, channels, height, width = shapes[0]
        return (height, width) == (size[0] / 16, size[1] / 16) and channels > 5

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """A candidate per cell."""
        (raw,) = outputs.values()
        height, width = raw.shape[2:]
        cells = np.moveaxis(raw, 1, -1)
        whole = np.array([size[1], size[0]], np.float32)
        count = np.array([width, height], np.float32)
        xy = (np.tanh(cells[..., 1:3]) + grid(height, width)) / count * whole
        wh = sigmoid(cells[..., 3:5]) * whole
        scores = np.maximum(cells[..., :1], 0) ** 0.6 * np.maximum(cells[..., 5:], 0) ** 0.4
        boxes = corners(xy, wh).reshape(len(raw), -1, 4)
        scores = scores.reshape(len(raw), -1, scores.shape[-1])
        return [Candidates(b, s) for b, s in zip(boxes, scores, strict=True)]
