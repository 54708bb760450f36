"""RetinaNet of the zoo: raw maps, or what its own decoding makes of them.

    anchors  at the corner of every cell of stride s: base s 2^(k/3) wide for ratio 1, k = 0, 1, 2,
             height / width = 1/2, 1, 2 of the same area
    xy = anchor's xy + t_xy * anchor's wh,   wh = exp(min(t_wh, log(1000 / 16))) * anchor's wh
    score = sigmoid(class)

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from graphopt.evaluate.decoders.base import (
    Array,
    Candidates,
    Decoder,
    Shapes,
    columns,
    corners,
    grid,
    sigmoid,
)

LARGEST_GROWTH = math.log(1000 / 16)

_Map = TypeVar("_Map")


@dataclass(frozen=True)
class Retina(Decoder):
    """Class maps (batch, 9 classes, h, w) and box maps (batch, 36, h, w) of every level; or outputs
    called boxes (batch, n, 4), in pixels, and scores (batch, n, classes).

    Attributes:
        strides: of the levels, finest first.
        base: width of a level's smallest square anchor in strides.
        ratios: heights / widths of anchors.
        octaves: their sizes within a level.
    """

    name: ClassVar[str] = "retinanet"
    preprocess: ClassVar[str] = (
        "letterbox, top-left, pad=0, mean=0.485,0.456,0.406, std=0.229,0.224,0.225"
    )

    strides: tuple[float, ...] = (8, 16, 32, 64, 128)
    base: float = 4
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    octaves: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """Boxes and scores by name with more than four classes, or two maps at every stride."""
        if set(outputs) == {"boxes", "scores"}:
            return (columns(outputs) or [0])[-1] > 4
        shapes = list(outputs.values())
        if len(shapes) != 2 * len(self.strides) or not all(_is_map(s) for s in shapes):
            return False
        levels = self.pairs(shapes, lambda s: s)
        count = self.per_cell
        return all(
            list(b[2:]) == list(c[2:]) == [-(-size[0] // s), -(-size[1] // s)]
            and (b[1], c[1] % count) == (4 * count, 0)
            for (c, b), s in zip(levels, self.strides, strict=True)
        )

    def decode(
        self,
        outputs: Mapping[str, Array],
        size: tuple[int, int],  # noqa: ARG002
    ) -> list[Candidates]:
        """The candidates of all levels together."""
        if set(outputs) == {"boxes", "scores"}:
            pairs = zip(outputs["boxes"], outputs["scores"], strict=True)
            return [Candidates(boxes, scores) for boxes, scores in pairs]
        levels = self.pairs(list(outputs.values()), lambda m: m.shape)
        anchors = self.anchors([box.shape[2:] for _, box in levels])
        scores = sigmoid(np.concatenate([self._rows(c) for c, _ in levels], axis=1))
        moves = np.concatenate([self._rows(b) for _, b in levels], axis=1)
        xy = anchors[:, :2] + moves[..., :2] * anchors[:, 2:]
        wh = np.exp(np.minimum(moves[..., 2:], LARGEST_GROWTH)) * anchors[:, 2:]
        return [Candidates(b, s) for b, s in zip(corners(xy, wh), scores, strict=True)]

    @property
    def per_cell(self) -> int:
        """How many anchors a cell has."""
        return len(self.ratios) * len(self.octaves)

    def anchors(self, cells: Sequence[tuple[int, int]]) -> Array:
        """(n, 4) centres x y and sizes w h in pixels, of levels with so many rows and columns.

        The order is that of the rows of maps: by level, row, column, ratio, octave.
        """
        return np.concatenate(
            [self._level(h, w, s) for (h, w), s in zip(cells, self.strides, strict=True)]
        )

    def pairs(self, maps: Sequence[_Map], shape_of: Any) -> list[tuple[_Map, _Map]]:
        """The class and the box map of every level, finest first; levels of one size in their order.

        Box maps have four channels an anchor. With four classes all maps have, and the class maps
        of all levels come first.
        """
        half = len(maps) // 2
        boxes = [m for m in maps if shape_of(m)[1] == 4 * self.per_cell]
        kinds = [m for m in maps if shape_of(m)[1] != 4 * self.per_cell]
        if len(boxes) != half:
            kinds, boxes = list(maps[:half]), list(maps[half:])
        ordered = [
            sorted(m, key=lambda m: -shape_of(m)[2] * shape_of(m)[3]) for m in (kinds, boxes)
        ]
        return list(zip(*ordered, strict=True))

    def _level(self, height: int, width: int, stride: float) -> Array:
        side = self.base * stride
        sizes = [(side * o / r**0.5, side * o * r**0.5) for r in self.ratios for o in self.octaves]
        at = np.repeat(grid(height, width).reshape(-1, 1, 2) * stride, len(sizes), axis=1)
        wh = np.broadcast_to(np.array(sizes, np.float32), at.shape)
        return np.concatenate([at, wh], axis=2).reshape(-1, 4)

    def _rows(self, raw: Array) -> Array:
        """(batch, anchors * values, h, w) to (batch, h * w * anchors, values)."""
        batch, channels, height, width = raw.shape
        cells = raw.reshape(batch, self.per_cell, channels // self.per_cell, height, width)
        return cells.transpose(0, 3, 4, 1, 2).reshape(batch, -1, cells.shape[2])


def _is_map(shape: Sequence[Any]) -> bool:
    return len(shape) == 4 and all(isinstance(d, int) for d in shape[1:])
