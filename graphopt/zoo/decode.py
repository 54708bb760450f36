"""From raw heads to boxes, inside the graph, the way exported detectors carry it.

YOLO (Redmon and Farhadi 2018, section 2.1), per anchor and cell:
    xy = (sigmoid(t_xy) * s - (s - 1) / 2 + cell) * stride      s = scale_x_y of the cfg
    wh = exp(t_wh) * anchor          objectness, classes = sigmoid(t)
RetinaNet: box centre = anchor centre + t_xy * anchor size, box size = exp(t_wh) * anchor size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

RETINA_STRIDES = (8, 16, 32, 64, 128)
RETINA_RATIOS = (0.5, 1.0, 2.0)  # height / width
RETINA_OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RETINA_BASE = 4  # the smallest anchor of a level is four strides wide
LARGEST_GROWTH = math.log(1000 / 16)  # keeps exp finite on untrained weights

Anchors = Sequence[tuple[float, float]]


class YoloDecode(nn.Module):
    """Raw maps, finest first, to (batch, boxes, 5 + classes) in pixels: cx cy w h, scores."""

    def __init__(
        self, anchors: Sequence[Anchors], strides: Sequence[int], scale_xy: Sequence[float]
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            YoloScale(*scale) for scale in zip(anchors, strides, scale_xy, strict=True)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        boxes = [scale(raw) for scale, raw in zip(self.scales, maps, strict=True)]
        return torch.cat(boxes, dim=1)


class YoloScale(nn.Module):
    """One map to (batch, anchors * height * width, 5 + classes)."""

    anchors: Tensor

    def __init__(self, anchors: Anchors, stride: int, scale_xy: float) -> None:
        super().__init__()
        sizes = torch.tensor(anchors, dtype=torch.float32).reshape(1, -1, 1, 1, 2)
        self.register_buffer("anchors", sizes, persistent=False)
        self.stride = stride
        self.scale_xy = scale_xy

    def forward(self, raw: Tensor) -> Tensor:
        batch, channels, height, width = raw.shape
        count = self.anchors.shape[1]
        values = channels // count
        cells = raw.view(batch, count, values, height, width).permute(0, 1, 3, 4, 2)
        xy, wh, scores = cells.split((2, 2, values - 4), dim=-1)
        xy = xy.sigmoid()
        if self.scale_xy != 1.0:
            xy = xy * self.scale_xy - (self.scale_xy - 1) / 2
        xy = (xy + grid(height, width, raw)) * self.stride
        wh = wh.exp() * self.anchors
        return torch.cat((xy, wh, scores.sigmoid()), dim=-1).reshape(batch, -1, values)


class RetinaDecode(nn.Module):
    """Class and box maps to boxes (batch, anchors, x1 y1 x2 y2) and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(RetinaLevel(stride) for stride in RETINA_STRIDES)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        count = len(RETINA_STRIDES)
        logits = [rows_of(raw, len(sizes(1))) for raw in maps[:count]]
        boxes = [level(raw) for level, raw in zip(self.levels, maps[count:], strict=True)]
        return torch.cat(boxes, dim=1), torch.cat(logits, dim=1).sigmoid()


class RetinaLevel(nn.Module):
    """The box map of one level applied to its anchors."""

    sizes: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        wh = torch.tensor(sizes(stride), dtype=torch.float32)
        self.register_buffer("sizes", wh, persistent=False)
        self.stride = stride

    def forward(self, raw: Tensor) -> Tensor:
        height, width = raw.shape[2:]
        count = self.sizes.shape[0]
        centre = grid(height, width, raw).reshape(-1, 1, 2) * self.stride
        anchor_xy = centre.expand(-1, count, 2).reshape(1, -1, 2)
        anchor_wh = self.sizes.repeat(height * width, 1).unsqueeze(0)
        delta_xy, delta_wh = rows_of(raw, count).split((2, 2), dim=-1)
        xy = anchor_xy + delta_xy * anchor_wh
        wh = anchor_wh * delta_wh.clamp(max=LARGEST_GROWTH).exp()
        return torch.cat((xy - wh / 2, xy + wh / 2), dim=-1)


def rows_of(raw: Tensor, anchors: int) -> Tensor:
    """(batch, anchors * values, height, width) to (batch, height * width * anchors, values)."""
    batch, channels, height, width = raw.shape
    values = channels // anchors
    cells = raw.view(batch, anchors, values, height, width).permute(0, 3, 4, 1, 2)
    return cells.reshape(batch, -1, values)


def grid(height: int, width: int, like: Tensor) -> Tensor:
    """(1, 1, height, width, 2): the column and row of every cell."""
    rows = torch.arange(height, device=like.device)
    columns = torch.arange(width, device=like.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1).reshape(1, 1, height, width, 2).to(like.dtype)


def sizes(stride: int) -> list[tuple[float, float]]:
    """Width and height of the nine anchors of a level; every ratio keeps the area."""
    return [
        (RETINA_BASE * stride * octave / ratio**0.5, RETINA_BASE * stride * octave * ratio**0.5)
        for ratio in RETINA_RATIOS
        for octave in RETINA_OCTAVE
    ]
