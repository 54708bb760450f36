"""Which anchors in which cells answer for which labelled boxes, for YOLO's raw maps.

    iou     anchors whose IoU by size with the box is above a threshold; the cell of its centre
    shape   anchors for which max(w / w_a, w_a / w, h / h_a, h_a / h) is below a ratio; also the
            neighbouring cells from which the formula reaches the centre

The best anchor by IoU always answers. An anchor in a cell answers for one box: for which it is the
best anchor, else the one it fits best.

`iou` is that of darknet (Bochkovskiy et al., "YOLOv4", 2020: several anchors for one truth);
`shape` that of ultralytics' YOLOv3 and YOLOv5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.tasks.boxes import centres, size_iou
from graphopt.tasks.truth import Truth, first_of_each

# A cell that could reach the centre only with an infinite output is none that answers.
_MARGIN = 1e-3


@dataclass(frozen=True, eq=False)
class Scale:
    """One map: its anchors and its cells.

    Attributes:
        anchors: (a, 2) width and height in pixels.
        scale_xy: s of xy = (sigmoid(t) s - (s - 1) / 2 + cell) stride.
        cells: height and width of the map.
        stride: (2,) pixels of a cell, x before y.
    """

    anchors: Tensor
    scale_xy: float
    cells: tuple[int, int]
    stride: Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """Places of one map, and the box of `Truth` each answers for; all (n,), ordered by place."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor


@dataclass(frozen=True)
class Matching:
    """The rule.

    Attributes:
        by: "iou" or "shape".
        threshold: of "iou".
        ratio: of "shape".
    """

    by: str = "iou"
    threshold: float = 0.213
    ratio: float = 4.0

    def of(self, truth: Truth, scales: Sequence[Scale]) -> list[Matches]:
        """The matches of every map; what is matched does not depend on any output."""
        sizes = centres(truth.boxes)[1]
        anchors = torch.cat([s.anchors for s in scales])
        fit = size_iou(sizes[:, None], anchors[None])
        chosen = fit > self.threshold if self.by == "iou" else self._alike(sizes, anchors)
        best = torch.zeros_like(chosen)
        best.scatter_(1, fit.argmax(1, keepdim=True), value=True)
        rank = fit + best.to(fit)
        counts = [len(s.anchors) for s in scales]
        parts = zip(scales, (chosen | best).split(counts, 1), rank.split(counts, 1), strict=True)
        return [self._on(truth, *part) for part in parts]

    def _alike(self, sizes: Tensor, anchors: Tensor) -> Tensor:
        ratios = sizes[:, None] / anchors[None]
        return torch.maximum(ratios, 1 / ratios).amax(-1) < self.ratio

    def _on(self, truth: Truth, scale: Scale, chosen: Tensor, rank: Tensor) -> Matches:
        box, anchor = chosen.nonzero(as_tuple=True)
        height, width = scale.cells
        at = centres(truth.boxes)[0][box] / scale.stride
        last = at.new_tensor([width - 1, height - 1])
        cell = torch.minimum(at.floor().clamp_min(0), last).long()
        if self.by == "shape":
            cell, source = _with_neighbours(at, cell, last, scale.scale_xy)
            box, anchor = box[source], anchor[source]
        column, row = cell.unbind(1)
        image = truth.image[box]
        place = ((image * len(scale.anchors) + anchor) * height + row) * width + column
        kept = first_of_each(place, rank[box, anchor])
        return Matches(image[kept], anchor[kept], row[kept], column[kept], box[kept])


def _with_neighbours(
    at: Tensor, cell: Tensor, last: Tensor, scale_xy: float
) -> tuple[Tensor, Tensor]:
    """The cells and those beside them from which the centre can be reached, and whose each is."""
    steps = torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], device=cell.device)
    beside = cell[None] + steps[:, None]
    reach = (scale_xy - 1) / 2 - _MARGIN
    offset = at[None] - beside
    is_near = ((offset > -reach) & (offset < 1 + reach)).all(-1)
    is_inside = ((beside >= 0) & (beside <= last)).all(-1)
    is_taken = is_near & is_inside
    is_taken[0] = True  # the cell itself, even when the centre is on its edge
    step, source = is_taken.nonzero(as_tuple=True)
    return beside[step, source], source
