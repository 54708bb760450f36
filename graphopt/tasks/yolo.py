"""The loss of YOLO's raw maps (YOLOv3, YOLOv4, YOLOv5).

    L_box    = mean over matches of 1 - CIoU(predicted, labelled)
    L_object = area / 416^2 * sum over maps of balance * mean over anchors and cells of BCE(t, matched)
    L_class  = 1 / 80 * mean over matches of the sum over classes of BCE(t, is the class)

`area` is that of the input, so that a cell counts as much in images of any size. Cells whose predicted
box overlaps a labelled one by more than `ignore` without being matched count in no objectness. Anchors and
the formula of boxes are the decoder's (graphopt.evaluate.decoders.anchors), so that what is trained is
what is evaluated; which places are matched: graphopt.tasks.matching.

Redmon and Farhadi, "YOLOv3", 2018; Bochkovskiy et al., "YOLOv4", 2020. Terms and gains follow
ultralytics' YOLOv3 (box 3.54, object 64.3, class 37.4 for 80 classes), which sums the means of three
maps where this is one mean: hence three times its gains for box and class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.tasks.boxes import OVERLAPS, iou, is_above
from graphopt.tasks.heads import Head, heads_of
from graphopt.tasks.matching import Matches, Matching
from graphopt.tasks.options import Options
from graphopt.tasks.outputs import Outputs
from graphopt.tasks.truth import Truth

_BALANCES = (4.0, 1.0, 0.4, 0.1, 0.04)  # of the maps, finest first: fine ones have more cells
_CLASSES = 80  # for which the gain of the class term is meant
_AREA = 416**2  # for which the gain of the objectness is meant


@dataclass(frozen=True)
class YoloOptions(Options):
    """What can be set in `loss`.

    Attributes:
        box: weight of the box term.
        object: weight of the objectness term.
        class_: weight of the class term.
        iou: overlap in the box term: "ciou", "diou", "giou", "iou", or "mse" for the squared error of
            (x, y, log w, log h) in cells and anchors, times 2 - the box's share of the image (darknet).
        objectness: "bce", or "focal" with `alpha` and `gamma`: |target - p|^gamma times it.
        aim: what matched objectness is trained towards: "one", or "iou" of the predicted box.
        ignore: see the module's text; 1 ignores nothing.
        match: "iou", "shape", or "auto": shape for YOLOv5's boxes. See `graphopt.tasks.matching`.
        threshold: of match=iou.
        ratio: of match=shape.
        smoothing: e; classes are trained towards 1 - e / 2 and e / 2. Nothing with one class.
        balance: weights of the maps in the objectness, finest first, as in 4|1|0.4.
        reduce: "mean" as above, or "image": sums over matches and cells, divided by the images
            (darknet, whose weights are 0.07, 1 and 1).
        alpha: of focal.
        gamma: of focal.
    """

    name: ClassVar[str] = "yolo"

    box: float = 10.0
    object: float = 64.0
    class_: float = 110.0
    iou: str = "ciou"
    objectness: str = "bce"
    aim: str = "one"
    ignore: float = 0.7
    match: str = "auto"
    threshold: float = 0.213
    ratio: float = 4.0
    smoothing: float = 0.0
    balance: str = ""
    reduce: str = "mean"
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        self.check_choice("iou", (*OVERLAPS, "mse"))
        self.check_choice("objectness", ("bce", "focal"))
        self.check_choice("aim", ("one", "iou"))
        self.check_choice("match", ("auto", "iou", "shape"))
        self.check_choice("reduce", ("mean", "image"))
        self.check_numbers("box", "object", "class_", "gamma", "ratio")
        self.check_numbers("ignore", "threshold", "smoothing", "alpha", most=1)

    def balances(self, maps: int) -> tuple[float, ...]:
        """The weights of so many maps.

        Raises:
            UsageError: `balance` is no list of as many numbers.
        """
        if self.reduce == "image" and not self.balance:
            return (1.0,) * maps
        try:
            given = (
                [float(v) for v in self.balance.split("|")] if self.balance else _BALANCES[:maps]
            )
        except ValueError:
            given = []
        if len(given) != maps:
            raise UsageError(
                f"loss yolo: balance={self.balance}: write {maps} numbers, finest map first, as in "
                f"{'|'.join(f'{b:g}' for b in _BALANCES[:maps])}"
            )
        return tuple(given)


class YoloLoss(nn.Module):
    """See the module's text."""

    def __init__(
        self,
        decoder: AnchorMaps,
        size: tuple[int, int],
        classes: int,
        options: YoloOptions | None = None,
    ) -> None:
        """The loss for one detector.

        Args:
            decoder: has the anchors and the formula.
            size: height and width of the input.
            classes: how many there are.
            options: the defaults if left out.

        Raises:
            UsageError: a balance for another number of maps.
        """
        super().__init__()
        self.decoder, self.size, self.classes = decoder, size, classes
        self.options = given = options or YoloOptions()
        self.balances = given.balances(len(decoder.anchors))
        auto = "shape" if decoder.squared else "iou"
        by = auto if given.match == "auto" else given.match
        self.matching = Matching(by, given.threshold, given.ratio)

    def forward(self, outputs: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The weighted terms "box", "object" and "class".

        Args:
            outputs: the raw maps (images, anchors * (5 + classes), height, width) in any order and
                precision; the terms are computed in float32 at least.
            targets: (images, rows, 5) of class, x1, y1, x2, y2 in pixels of the input; class -1
                fills up.

        Raises:
            UsageError: maps of another network, or labels that cannot be meant.
        """
        heads, truth, found = self._matched(outputs, targets)
        per = len(heads[0].raw)
        if self.options.reduce == "mean":
            per = max(sum(len(m.box) for m in found), 1)
        terms = [self._terms(h, m, truth) for h, m in zip(heads, found, strict=True)]
        box, objects, kind = zip(*terms, strict=True)
        balanced = [b * o for b, o in zip(self.balances, objects, strict=True)]
        return {
            "box": self.options.box / per * torch.stack(box).sum(),
            "object": self.options.object * torch.stack(balanced).sum(),
            "class": self.options.class_ / per * torch.stack(kind).sum(),
        }

    def matched_boxes(self, outputs: Outputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is predicted at every matched place, and what the labels say it should be.

        Both (n, 4): x and y in cells from the corner of the cell, log(width / anchor), log(height /
        anchor). Rows are ordered by map (finest first), image, anchor, row, column. Which places are
        matched depends on the targets alone, so row k of a student and of a teacher with the same
        heads is the same place, as a regression bounded by the teacher needs it:

            sum over k of |b_s - b|^2 where it exceeds |b_t - b|^2    (Chen et al., NIPS 2017)

        Args:
            outputs: as for `forward`; the gradient flows back into them.
            targets: as for `forward`.

        Raises:
            UsageError: as for `forward`.
        """
        heads, truth, found = self._matched(outputs, targets)
        pairs = list(zip(heads, found, strict=True))
        predicted = torch.cat([h.units(h.at(m)) for h, m in pairs])
        return predicted, torch.cat([h.wanted_at(truth, m) for h, m in pairs])

    def _matched(
        self, outputs: Outputs, targets: Tensor
    ) -> tuple[list[Head], Truth, list[Matches]]:
        heads = heads_of(outputs, self.decoder, self.size, self.classes)
        truth = Truth.of(targets, self.classes, heads[0].raw)
        if len(targets) != len(heads[0].raw):
            raise UsageError(f"{len(heads[0].raw)} images have targets for {len(targets)}")
        return heads, truth, self.matching.of(truth, [h.scale for h in heads])

    # --- terms ------------------------------------------------------------------------------------

    def _terms(self, head: Head, at: Matches, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the box and the class term of one map, and its objectness."""
        values = head.at(at)
        units = head.units(values)
        predicted, labelled = head.boxes_at(units, at), truth.boxes[at.box]
        if self.options.iou == "mse":
            errors = (units - head.wanted_at(truth, at)).square().sum(-1)
            share = (labelled[:, 2:] - labelled[:, :2]).prod(-1) / (self.size[0] * self.size[1])
            box = (errors * (2 - share)).sum()
        else:
            box = (1 - OVERLAPS[self.options.iou](predicted, labelled)).sum()
        aim = torch.ones_like(values[:, 0])
        if self.options.aim == "iou":
            aim = iou(predicted.detach(), labelled)
        return box, self._object(head, at, aim, truth), self._class(values[:, 5:], at, truth)

    def _object(self, head: Head, at: Matches, aim: Tensor, truth: Truth) -> Tensor:
        logits = head.raw[:, :, 4]
        wanted = torch.zeros_like(logits)
        counted = torch.ones_like(logits)
        if self.options.ignore < 1:
            ignored = is_above(head.all_boxes(), truth.padded, self.options.ignore)
            counted = (~ignored).view_as(logits).to(logits)
        wanted[at.image, at.anchor, at.row, at.column] = aim
        counted[at.image, at.anchor, at.row, at.column] = 1.0
        errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if self.options.objectness == "focal":
            positive = (wanted > 0).to(logits)
            weight = self.options.alpha * positive + (1 - self.options.alpha) * (1 - positive)
            errors = errors * weight * (wanted - logits.sigmoid()).abs() ** self.options.gamma
        total = (errors * counted).sum()
        if self.options.reduce == "image":
            return total / len(logits)
        return total / logits.numel() * (self.size[0] * self.size[1] / _AREA)

    def _class(self, logits: Tensor, at: Matches, truth: Truth) -> Tensor:
        wanted = functional.one_hot(truth.kind[at.box], self.classes).to(logits)
        if self.classes > 1:  # with one class there is nothing to be unsure about
            wanted = wanted * (1 - self.options.smoothing) + self.options.smoothing / 2
        errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return errors if self.options.reduce == "image" else errors / _CLASSES
