"""From candidates to detections: thresholds and non-maximum suppression, class by class.

    take the best box, drop those of its class that overlap it by more than `iou`, repeat

IoU = intersection / union of two boxes' areas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rules:
    """What becomes a detection.

    Attributes:
        score: candidates below go; 0.001 for average precision, more where pictures are drawn.
        iou: boxes of a class that overlap a better one by more go.
        most: how many detections an image may have.
        candidates: only so many of the best are looked at.
    """

    score: float = 0.001
    iou: float = 0.65
    most: int = 300
    candidates: int = 4000


@dataclass(frozen=True)
class Detections:
    """What was found on one image, best first: boxes (n, 4) x1 y1 x2 y2."""

    boxes: Array
    scores: Array
    classes: Array


def detections(
    boxes: Array, scores: Array, rules: Rules, *, every_class: bool = True
) -> Detections:
    """The detections among candidates.

    Args:
        boxes: (n, 4) x1 y1 x2 y2.
        scores: (n, classes).
        rules: see there.
        every_class: a box is a candidate for every class it has the score for; else for its best.
    """
    if every_class:
        rows, classes = np.nonzero(scores >= rules.score)
        found = scores[rows, classes]
    else:
        classes = scores.argmax(1) if scores.size else np.zeros(len(scores), np.int64)
        rows = np.arange(len(scores))
        found = scores[rows, classes]
        rows, classes, found = (v[found >= rules.score] for v in (rows, classes, found))
    best = np.argsort(-found, kind="stable")[: rules.candidates]
    rows, classes, found = rows[best], classes[best], found[best]
    kept = suppress(boxes[rows], classes, rules.iou, rules.most)
    return Detections(boxes[rows[kept]], found[kept], classes[kept])


def suppress(boxes: Array, classes: Array, iou: float, most: int) -> Array:
    """The numbers of the boxes that stay, of boxes sorted best first."""
    if not len(boxes):
        return np.zeros(0, np.int64)
    # Boxes of different classes are moved so far apart that they cannot overlap.
    apart = float(np.ptp(boxes)) + 1.0
    moved = boxes.astype(np.float64) + (classes * apart)[:, None]
    areas = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size and len(kept) < most:
        first, left = left[0], left[1:]
        kept.append(int(first))
        corner = np.maximum(moved[first, :2], moved[left, :2])
        size = np.maximum(np.minimum(moved[first, 2:], moved[left, 2:]) - corner, 0)
        shared = size[:, 0] * size[:, 1]
        union = areas[first] + areas[left] - shared
        left = left[shared <= iou * union]
    return np.array(kept, np.int64)
