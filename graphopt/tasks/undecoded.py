"""The loss of YOLO's raw maps for exports that decode in the graph.

Rows of centre, size (pixels), objectness and classes (probabilities) are turned back into what they
were made from, scale by scale, and go to the loss of raw maps:

    t_xy = logit((xy / stride - cell + (s - 1) / 2) / s)
    t_wh = log(wh / anchor)                 YOLOv5: logit(sqrt(wh / anchor) / 2)
    t    = logit(p)                         objectness and classes

so that the gradient is that of the raw maps, through the decoding and back. A probability that single
precision rounds to 0 or 1 has none left. Which formula and anchors were used, the rows do not say: the user
does; whether the order of the rows is the expected one (scale, anchor, row, column) they do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.evaluate.decoders import DECODERS
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.evaluate.decoders.rows import STRIDES
from graphopt.evaluate.decoders.text import with_options
from graphopt.named import unknown
from graphopt.tasks.heads import cells
from graphopt.tasks.outputs import Outputs, as_list
from graphopt.tasks.yolo import YoloLoss, YoloOptions

FORMULAS = ("yolov3", "yolov3-tiny", "yolov4", "yolov5")
_LEAST = 1e-7  # of a probability, and of one less it
_OFF = 0.02  # cells by which a centre may lie out of reach, for the roundings of large pixels


@dataclass(frozen=True)
class DecodedOptions(YoloOptions):
    """What can be set in `loss` for decoded rows, besides the options of raw maps.

    Attributes:
        of: the formula of the boxes: one of `FORMULAS`.
        anchors: as for that decoder, 10x13|16x30|...; its own if left out.
        scale_xy: likewise, 1.2|1.1|1.05.
    """

    name: ClassVar[str] = "yolo"

    of: str = ""
    anchors: str = ""
    scale_xy: str = ""

    def decoder(self) -> AnchorMaps:
        """The decoder that the graph has inside.

        Raises:
            UsageError: it is not said, or not one that is known.
        """
        if not self.of:
            raise UsageError(
                "the outputs are decoded boxes, which do not say by what formula: write it into the "
                f"loss, of={FORMULAS[-1]} (known: {', '.join(FORMULAS)}), with anchors=10x13|16x30|... "
                "where they are not the published ones"
            )
        if self.of not in FORMULAS:
            raise UsageError(f"loss yolo: {unknown('formula', self.of, FORMULAS)}")
        given = {"anchors": self.anchors, "scale-xy": self.scale_xy}
        made = with_options(DECODERS.find(self.of), {k: v for k, v in given.items() if v})
        assert isinstance(made, AnchorMaps)
        return made


class DecodedYoloLoss(nn.Module):
    """See the module's text; terms and targets are those of `YoloLoss`."""

    def __init__(
        self, size: tuple[int, int], rows: int, classes: int, options: DecodedOptions
    ) -> None:
        """The loss for one detector.

        Args:
            size: height and width of the input.
            rows: how many the network puts out per image.
            classes: how many there are.
            options: say at least the formula.

        Raises:
            UsageError: options that cannot be meant, or another number of rows than theirs.
        """
        super().__init__()
        decoder = options.decoder()
        self.raw = YoloLoss(decoder, size, classes, options)
        self.cells = [
            (-(-size[0] // s), -(-size[1] // s)) for s in STRIDES[-len(decoder.anchors) :]
        ]
        self.counts = [
            len(a) * h * w for a, (h, w) in zip(decoder.anchors, self.cells, strict=True)
        ]
        if sum(self.counts) != rows:
            raise UsageError(
                f"loss yolo: of={options.of} has {sum(self.counts)} boxes for inputs of {size[0]} x "
                f"{size[1]}, the network puts out {rows}"
            )

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.raw.classes

    def forward(self, outputs: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The weighted terms "box", "object" and "class".

        Args:
            outputs: rows (images, boxes, 5 + classes).
            targets: as for `YoloLoss`.

        Raises:
            UsageError: rows of another network or in another order, or labels that cannot be meant.
        """
        terms: dict[str, Tensor] = self.raw(self.maps(outputs), targets)
        return terms

    def matched_boxes(self, outputs: Outputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `YoloLoss.matched_boxes`."""
        return self.raw.matched_boxes(self.maps(outputs), targets)

    def maps(self, outputs: Outputs) -> list[Tensor]:
        """The raw maps (images, anchors * (5 + classes), height, width), finest first.

        Raises:
            UsageError: as for `forward`.
        """
        found = as_list(outputs)
        wanted = (sum(self.counts), 5 + self.classes)
        if len(found) != 1 or tuple(found[0].shape[1:]) != wanted:
            shapes = ", ".join(str(tuple(o.shape)) for o in found)
            raise UsageError(
                f"the loss needs rows (images, {wanted[0]}, {wanted[1]}), not {shapes}"
            )
        parts = found[0].split(self.counts, 1)
        return [self._map(rows, scale) for scale, rows in enumerate(parts)]

    def _map(self, rows: Tensor, scale: int) -> Tensor:
        decoder = self.raw.decoder
        (height, width), anchors = self.cells[scale], rows.new_tensor(decoder.anchors[scale])
        values = rows.unflatten(1, (len(anchors), height, width))
        t_xy = self._centres(values[..., :2], decoder.scale_xy[scale])
        growth = values[..., 2:4] / anchors[:, None, None]
        if decoder.squared:
            t_wh = torch.logit(growth.clamp_min(_LEAST).sqrt() / 2, eps=_LEAST)
        else:
            t_wh = growth.clamp_min(math.exp(-20)).log()
        scores = torch.logit(values[..., 4:], eps=_LEAST)
        return torch.cat((t_xy, t_wh, scores), -1).movedim(-1, 2).flatten(1, 2)

    def _centres(self, xy: Tensor, s: float) -> Tensor:
        """t_xy of centres (images, anchors, height, width, 2) in pixels."""
        height, width = xy.shape[2:4]
        stride = xy.new_tensor([self.raw.size[1] / width, self.raw.size[0] / height])
        inside = (xy / stride - cells(height, width, xy.device) + (s - 1) / 2) / s
        with torch.no_grad():
            if bool(((inside < -_OFF) | (inside > 1 + _OFF)).any()):
                raise UsageError(
                    "the rows are not in the order scale, anchor, row, column, or not decoded by "
                    f"{self.raw.decoder}: centres lie outside their cells' reach; train an export with "
                    "raw maps"
                )
        return torch.logit(inside, eps=_LEAST)
