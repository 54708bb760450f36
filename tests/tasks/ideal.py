"""Random boxes that no cell, no anchor and no suppression confuses, and the outputs that mean them.

The inverse of the decoders is written here once more, in numpy, apart from the losses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from graphopt.evaluate import Decoder, Example
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.evaluate.decoders.retina import Retina
from graphopt.evaluate.metrics import average_precision
from graphopt.evaluate.nms import Detections, detections
from graphopt.tasks.retinanet import RetinaLoss
from graphopt.tasks.yolo import YoloLoss

Array = np.ndarray[Any, Any]

SIZE = 128
CLASSES = 3
SURE = 20.0


@st.composite
def layouts(draw: st.DrawFn) -> Tensor:
    """Targets (2, 8, 5): boxes in the cells of a grid, so that none overlaps another."""
    targets = torch.full((2, 8, 5), -1.0)
    share = st.floats(0, 1, width=32)
    for image in range(2):
        side = SIZE // draw(st.sampled_from((1, 2, 4)))
        across = SIZE // side
        cells = draw(st.lists(st.integers(0, across**2 - 1), max_size=8, unique=True))
        for row, cell in enumerate(cells):
            w, h = (8 + draw(share) * (side - 9) for _ in range(2))
            x = cell % across * side + draw(share) * (side - w)
            y = cell // across * side + draw(share) * (side - h)
            kind = draw(st.integers(0, CLASSES - 1))
            targets[image, row] = torch.tensor([kind, x, y, x + w, y + h])
    return targets


def logit(p: Array) -> Array:
    p = np.clip(p, 1e-5, 1 - 1e-5)
    return np.asarray(np.log(p) - np.log1p(-p))


def yolo_outputs(loss: YoloLoss, targets: Tensor) -> list[Tensor]:
    """Maps that say exactly the targets, at the places the loss matches; finest first."""
    decoder, classes = loss.decoder, loss.classes
    strides = [8 * 2**k for k in range(3)][-len(decoder.anchors) :]
    made = []
    for anchors, stride in zip(decoder.anchors, strides, strict=True):
        cells = SIZE // stride
        raw = torch.full((len(targets), len(anchors), 5 + classes, cells, cells), -SURE)
        raw[:, :, :4] = 0
        made.append(raw)
    flat = [m.flatten(1, 2) for m in made]
    _, truth, found = loss._matched(flat, targets)
    for raw, scale, at in zip(made, range(len(strides)), found, strict=True):
        boxes = truth.boxes[at.box].numpy()
        anchors = np.array(decoder.anchors[scale])[at.anchor.numpy()]
        corner = np.stack([at.column, at.row], 1) * strides[scale]
        xy = ((boxes[:, :2] + boxes[:, 2:]) / 2 - corner) / strides[scale]
        growth = (boxes[:, 2:] - boxes[:, :2]) / anchors
        s = decoder.scale_xy[scale]
        t = np.full((len(boxes), 5 + classes), -SURE)
        t[:, :2] = logit((xy + (s - 1) / 2) / s)
        t[:, 2:4] = logit(np.sqrt(growth) / 2) if decoder.squared else np.log(growth)
        t[:, 4] = SURE
        t[np.arange(len(boxes)), 5 + truth.kind[at.box].numpy()] = SURE
        raw[at.image, at.anchor, :, at.row, at.column] = torch.from_numpy(t).float()
    return [m.flatten(1, 2) for m in made]


def retina_outputs(loss: RetinaLoss, targets: Tensor) -> list[Tensor]:
    """Class maps of all levels, then box maps; likewise."""
    sides = [SIZE // s for s in (8, 16, 32, 64, 128)]
    anchors = Retina().anchors([(n, n) for n in sides])
    logits = torch.full((len(targets), len(anchors), loss.classes), -SURE)
    moves = torch.zeros(len(targets), len(anchors), 4)
    empty = _as_maps(logits, sides) + _as_maps(moves, sides)
    rows = loss._rows(empty)
    truth = _truth(targets, loss, rows[0])
    found = loss._anchored(truth, rows[2])
    logits[found.image, found.anchor, truth.kind[found.box]] = SURE
    boxes, own = truth.boxes[found.box].numpy(), anchors[found.anchor.numpy()]
    xy, wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    t = np.concatenate([(xy - own[:, :2]) / own[:, 2:], np.log(wh / own[:, 2:])], 1)
    moves[found.image, found.anchor] = torch.from_numpy(t).float()
    return _as_maps(logits, sides) + _as_maps(moves, sides)


def _truth(targets: Tensor, loss: RetinaLoss, like: Tensor) -> Any:
    from graphopt.tasks.truth import Truth

    return Truth.of(targets, loss.classes, like)


def _as_maps(rows: Tensor, sides: list[int]) -> list[Tensor]:
    parts = rows.split([n * n * 9 for n in sides], 1)
    return [p.view(len(p), n, n, -1).permute(0, 3, 1, 2) for p, n in zip(parts, sides, strict=True)]


def judged(decoder: Decoder, outputs: list[Tensor], targets: Tensor) -> dict[str, float]:
    """What evaluation makes of outputs: decoder, suppression, pycocotools."""
    named = {str(k): m.detach().float().numpy() for k, m in enumerate(outputs)}
    truth, found = [], []
    for rows, each in zip(targets, decoder.decode(named, (SIZE, SIZE)), strict=True):
        rows = rows[rows[:, 0] >= 0].double().numpy()
        truth.append(Example(np.zeros(0), rows[:, 0].astype(np.int64), rows[:, 1:]))
        found.append(detections(each.boxes, each.scores, decoder.rules))
    return average_precision(truth, [Detections(f.boxes, f.scores, f.classes) for f in found])


def yolo_loss(decoder: AnchorMaps, **options: Any) -> YoloLoss:
    from graphopt.tasks.yolo import YoloOptions

    return YoloLoss(decoder, (SIZE, SIZE), CLASSES, YoloOptions(**options))
