"""What YOLO's raw maps say of boxes, as the decoder reads them, differentiable.

    x = sigmoid(t_x) s - (s - 1) / 2        in cells, from the corner of the cell; y likewise
    log(w / anchor) = t_w                   YOLOv5: 2 log(2 sigmoid(t_w)); h likewise

These four are the units of a box here: errors in them do not depend on its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.tasks.boxes import centres, corners
from graphopt.tasks.matching import Matches, Scale
from graphopt.tasks.outputs import Outputs, maps_of
from graphopt.tasks.truth import Truth

_LARGEST_GROWTH = 20.0  # where the decoder cuts it off


@dataclass(frozen=True, eq=False)
class Head:
    """One map of a batch.

    Attributes:
        raw: (images, anchors, 5 + classes, height, width).
        scale: its anchors and cells.
        squared: boxes are YOLOv5's.
    """

    raw: Tensor
    scale: Scale
    squared: bool

    def at(self, matches: Matches) -> Tensor:
        """The values (n, 5 + classes) at the matched places."""
        return self.raw[matches.image, matches.anchor, :, matches.row, matches.column]

    def units(self, values: Tensor) -> Tensor:
        """The box of values (..., 5 + classes) in units (..., 4)."""
        s = self.scale.scale_xy
        xy = values[..., :2].sigmoid() * s - (s - 1) / 2
        if self.squared:
            growth = 2 * (functional.logsigmoid(values[..., 2:4]) + math.log(2))
        else:
            growth = values[..., 2:4].clamp_max(_LARGEST_GROWTH)
        return torch.cat((xy, growth), dim=-1)

    def boxes_at(self, units: Tensor, matches: Matches) -> Tensor:
        """Boxes (n, 4) x1 y1 x2 y2 in pixels."""
        cell = torch.stack((matches.column, matches.row), dim=1)
        return self._boxes(units, cell, self.scale.anchors[matches.anchor])

    def wanted_at(self, truth: Truth, matches: Matches) -> Tensor:
        """The labelled boxes (n, 4) of the matched places in units."""
        xy, wh = centres(truth.boxes[matches.box])
        cell = torch.stack((matches.column, matches.row), dim=1)
        growth = (wh / self.scale.anchors[matches.anchor]).log()
        return torch.cat((xy / self.scale.stride - cell, growth), dim=-1)

    def all_boxes(self) -> Tensor:
        """The predicted boxes (images, anchors * height * width, 4) of every place."""
        values = self.raw[:, :, :4].permute(0, 1, 3, 4, 2)
        cell = cells(*self.scale.cells, values.device)
        anchors = self.scale.anchors[:, None, None]
        return self._boxes(self.units(values), cell, anchors).flatten(1, 3)

    def _boxes(self, units: Tensor, cell: Tensor, anchors: Tensor) -> Tensor:
        xy = (units[..., :2] + cell) * self.scale.stride
        return corners(xy, units[..., 2:].exp() * anchors)


def cells(height: int, width: int, device: torch.device) -> Tensor:
    """Column and row of every cell of a map, (height, width, 2)."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1)


def heads_of(
    outputs: Outputs, decoder: AnchorMaps, size: tuple[int, int], classes: int
) -> list[Head]:
    """The maps (images, anchors * (5 + classes), height, width), finest first.

    Args:
        outputs: in any order.
        decoder: has the anchors and the formula.
        size: height and width of the input.
        classes: how many there are.

    Raises:
        UsageError: maps of another network.
    """
    heads = []
    maps = maps_of(outputs, len(decoder.anchors))
    for raw, anchors, s in zip(maps, decoder.anchors, decoder.scale_xy, strict=True):
        images, channels, height, width = raw.shape
        if channels != len(anchors) * (5 + classes):
            raise UsageError(
                f"a map has {channels} channels; {len(anchors)} anchors and {classes} classes need "
                f"{len(anchors) * (5 + classes)}"
            )
        stride = raw.new_tensor([size[1] / width, size[0] / height])
        scale = Scale(raw.new_tensor(anchors), s, (height, width), stride)
        values = raw.reshape(images, len(anchors), 5 + classes, height, width)
        heads.append(Head(values, scale, decoder.squared))
    return heads
