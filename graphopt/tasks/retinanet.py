"""The loss of RetinaNet's raw maps.

    L_class = 1 / positives * sum over anchors and classes of a_t (1 - p_t)^gamma * -log p_t
    L_box   = 1 / positives * sum over positive anchors of smoothL1(t - t*)        or of 1 - GIoU
    t*      = (xy - xy_a) / wh_a, log(wh / wh_a)

An anchor is positive for the box it overlaps most if that is an IoU of 0.5 and more, or if no
other anchor overlaps the box more; negative below 0.4; what is between does not count. Anchors and
the meaning of t are the decoder's (graphopt.evaluate.decoders.retina).

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.retina import LARGEST_GROWTH, Retina
from graphopt.tasks.boxes import OVERLAPS, best_pairs, centres, corners, iou
from graphopt.tasks.options import Options
from graphopt.tasks.outputs import Outputs, as_list
from graphopt.tasks.truth import Truth, first_of_each


@dataclass(frozen=True)
class RetinaOptions(Options):
    """What can be set in `loss`.

    Attributes:
        box: weight of the box term.
        class_: weight of the class term.
        iou: "l1" for the smooth L1 of the paper, or "giou", "diou", "ciou", "iou".
        beta: where smooth L1 turns from square to straight.
        alpha: weight of what is there, 1 - alpha of what is not.
        gamma: how little easy anchors count.
        positive: the least IoU of a positive anchor.
        negative: below it an anchor is negative.
    """

    name: ClassVar[str] = "retinanet"

    box: float = 1.0
    class_: float = 1.0
    iou: str = "l1"
    beta: float = 1 / 9
    alpha: float = 0.25
    gamma: float = 2.0
    positive: float = 0.5
    negative: float = 0.4

    def __post_init__(self) -> None:
        self.check_choice("iou", (*OVERLAPS, "l1"))
        self.check_numbers("box", "class_", "gamma", "beta")
        self.check_numbers("alpha", "positive", "negative", most=1)
        if self.negative > self.positive:
            raise UsageError(f"loss retinanet: negative={self.negative} is above positive")


@dataclass(frozen=True, eq=False)
class _Anchored:
    """Anchors against the boxes of a batch.

    Attributes:
        image, anchor, box: (n,) the positive places and the box of `Truth` of each, ordered by place.
        counts: (images, anchors) whether an anchor is positive or negative.
    """

    image: Tensor
    anchor: Tensor
    box: Tensor
    counts: Tensor


class RetinaLoss(nn.Module):
    """See the module's text."""

    def __init__(self, decoder: Retina, classes: int, options: RetinaOptions | None = None) -> None:
        """The loss for one detector: its decoder, its classes, and options (the defaults if left out)."""
        super().__init__()
        self.decoder, self.classes = decoder, classes
        self.options = options or RetinaOptions()

    def forward(self, outputs: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The weighted terms "box" and "class".

        Args:
            outputs: class maps (images, anchors * classes, height, width) and box maps (images, anchors
                * 4, height, width) of every level in any order and precision; the terms are computed in
                float32 at least.
            targets: (images, rows, 5) of class, x1, y1, x2, y2 in pixels of the input; class -1
                fills up.

        Raises:
            UsageError: maps of another network, or labels that cannot be meant.
        """
        logits, moves, anchors = self._rows(outputs)
        truth = Truth.of(targets, self.classes, logits)
        if len(targets) != len(logits):
            raise UsageError(f"{len(logits)} images have targets for {len(targets)}")
        found = self._anchored(truth, anchors)
        positives = max(len(found.box), 1)
        box = self._box(moves[found.image, found.anchor], anchors[found.anchor], truth, found)
        return {
            "box": self.options.box / positives * box,
            "class": self.options.class_ / positives * self._class(logits, truth, found),
        }

    def matched_boxes(self, outputs: Outputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is predicted at every positive anchor, and what the labels say it should be.

        Both (n, 4) in units of the anchor, t and t* of the module's text; rows are ordered by
        image and anchor and depend on the targets alone; see `YoloLoss.matched_boxes`.

        Args:
            outputs: as for `forward`; the gradient flows back into them.
            targets: as for `forward`.

        Raises:
            UsageError: as for `forward`.
        """
        logits, moves, anchors = self._rows(outputs)
        truth = Truth.of(targets, self.classes, logits)
        found = self._anchored(truth, anchors)
        wanted = _moves(truth.boxes[found.box], anchors[found.anchor])
        return moves[found.image, found.anchor], wanted

    # --- places -----------------------------------------------------------------------------------

    def _rows(self, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (images, n, classes), moves (images, n, 4), and anchors (n, 4) xy wh."""
        maps = as_list(outputs)
        levels = len(self.decoder.strides)
        count = self.decoder.per_cell
        if len(maps) == 2 * levels and all(m.dim() == 4 for m in maps):
            pairs = self.decoder.pairs(maps, lambda m: m.shape)
            kinds = {c.shape[1] for c, _ in pairs}
            if kinds == {count * self.classes} and {b.shape[1] for _, b in pairs} == {4 * count}:
                made = self.decoder.anchors([(b.shape[2], b.shape[3]) for _, b in pairs])
                logits = torch.cat([_places(c, count) for c, _ in pairs], dim=1)
                moves = torch.cat([_places(b, count) for _, b in pairs], dim=1)
                return logits, moves, torch.from_numpy(made).to(moves)
        shapes = ", ".join(str(tuple(m.shape)) for m in maps)
        raise UsageError(
            f"the loss needs {levels} class maps of {count * self.classes} channels and as many box "
            f"maps of {4 * count}; the outputs are {shapes}"
        )

    def _anchored(self, truth: Truth, anchors: Tensor) -> _Anchored:
        given = self.options
        images, most = truth.padded.shape[:2]
        counts = torch.ones(images, len(anchors), dtype=torch.bool, device=anchors.device)
        if not most:
            none = torch.zeros(0, dtype=torch.long, device=anchors.device)
            return _Anchored(none, none, none, counts)
        overlap, which, best = best_pairs(corners(anchors[:, :2], anchors[:, 2:]), truth.padded)
        # the number of every image's first box among those of the batch
        first = torch.searchsorted(truth.image, torch.arange(images, device=anchors.device))
        image, anchor = (overlap >= given.positive).nonzero(as_tuple=True)
        box = first[image] + which[image, anchor]
        own = torch.arange(len(truth.image), device=anchors.device)
        own_anchor = best[truth.image, own - first[truth.image]]
        # being the best for a box comes before overlapping another one more; where it is for two,
        # the one it fits less has fewer others
        fit = iou(corners(anchors[:, :2], anchors[:, 2:])[own_anchor], truth.boxes)
        rank = torch.cat((overlap[image, anchor] - 1, 1 - fit))
        image = torch.cat((image, truth.image))
        anchor, box = torch.cat((anchor, own_anchor)), torch.cat((box, own))
        kept = first_of_each(image * len(anchors) + anchor, rank)
        image, anchor, box = image[kept], anchor[kept], box[kept]
        counts = overlap < given.negative
        counts[image, anchor] = True
        return _Anchored(image, anchor, box, counts)

    # --- terms ------------------------------------------------------------------------------------

    def _box(self, moves: Tensor, anchors: Tensor, truth: Truth, found: _Anchored) -> Tensor:
        labelled = truth.boxes[found.box]
        if self.options.iou == "l1":
            wanted = _moves(labelled, anchors)
            if not self.options.beta:
                return (moves - wanted).abs().sum()
            return functional.smooth_l1_loss(moves, wanted, reduction="sum", beta=self.options.beta)
        xy = anchors[:, :2] + moves[:, :2] * anchors[:, 2:]
        wh = moves[:, 2:].clamp_max(LARGEST_GROWTH).exp() * anchors[:, 2:]
        return (1 - OVERLAPS[self.options.iou](corners(xy, wh), labelled)).sum()

    def _class(self, logits: Tensor, truth: Truth, found: _Anchored) -> Tensor:
        given = self.options
        wanted = torch.zeros_like(logits)
        wanted[found.image, found.anchor, truth.kind[found.box]] = 1.0
        errors = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        chance = logits.sigmoid()
        missed = chance + wanted - 2 * chance * wanted  # 1 - p_t
        weight = given.alpha * wanted + (1 - given.alpha) * (1 - wanted)
        return (weight * missed**given.gamma * errors * found.counts[..., None]).sum()


def _places(raw: Tensor, anchors: int) -> Tensor:
    """(images, anchors * values, height, width) to (images, height * width * anchors, values)."""
    images, channels, height, width = raw.shape
    cells = raw.reshape(images, anchors, channels // anchors, height, width)
    return cells.permute(0, 3, 4, 1, 2).reshape(images, -1, channels // anchors)


def _moves(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What the decoder turns into `boxes`: t*."""
    xy, wh = centres(boxes)
    return torch.cat(((xy - anchors[:, :2]) / anchors[:, 2:], (wh / anchors[:, 2:]).log()), dim=1)
