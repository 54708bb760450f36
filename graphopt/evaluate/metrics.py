"""Figures of merit: average precision as COCO counts it, and top-k accuracy.

AP is the mean over classes and over IoU 0.50, 0.55, ..., 0.95 of the area under precision over
recall; AP50 is that at IoU 0.50. top-k is the share of images whose class is among the k best.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example
from graphopt.evaluate.nms import Detections

Array = np.ndarray[Any, Any]

_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def average_precision(truth: Sequence[Example], found: Sequence[Detections]) -> dict[str, float]:
    """AP, AP50, AP75 and AP by size of objects; NaN where there are no such objects.

    Args:
        truth: the images' labels, in pixels.
        found: the detections on them, in the same order.

    Raises:
        UsageError: pycocotools is not installed, or there is not one labelled box.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UsageError("average precision needs pycocotools: pip install pycocotools") from error
    boxes = [row for k, each in enumerate(truth) for row in _labels(each, k)]
    if not boxes:
        raise UsageError("average precision needs at least one labelled box; there is none")
    known = COCO()
    known.dataset = {
        "images": [{"id": k} for k in range(len(truth))],
        "annotations": [{"id": k + 1, **row} for k, row in enumerate(boxes)],
        "categories": [{"id": int(c)} for c in sorted({row["category_id"] for row in boxes})],
    }
    rows = [_rows(each, k) for k, each in enumerate(found)]
    if not sum(map(len, rows)):
        return dict.fromkeys(_FIGURES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every step
        known.createIndex()
        judge = COCOeval(known, known.loadRes(np.concatenate(rows)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = [float(v) for v in judge.stats[: len(_FIGURES)]]
    return dict(zip(_FIGURES, [v if v >= 0 else float("nan") for v in values], strict=True))


def top_accuracy(logits: Array, classes: Array) -> dict[str, float]:
    """top-1 and, where there are more than five classes, top-5: shares between 0 and 1.

    Args:
        logits: (images, classes), higher is likelier.
        classes: (images,) the right one.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = order == classes[:, None]
    found = {"top1": float(hits[:, 0].mean())}
    return {**found, "top5": float(hits.any(1).mean())} if logits.shape[1] > 5 else found


def _labels(example: Example, image: int) -> list[Mapping[str, Any]]:
    xywh = np.concatenate([example.boxes[:, :2], example.boxes[:, 2:] - example.boxes[:, :2]], 1)
    areas = xywh[:, 2] * xywh[:, 3] if example.areas is None else example.areas
    crowd = np.zeros(len(xywh), bool) if example.crowd is None else example.crowd
    return [
        {
            "image_id": image,
            "category_id": int(example.classes[k]),
            "bbox": xywh[k].tolist(),
            "area": float(areas[k]),
            "iscrowd": int(crowd[k]),
        }
        for k in range(len(xywh))
    ]


def _rows(found: Detections, image: int) -> Array:
    """(n, 7): image, x, y, w, h, score, class."""
    count = len(found.scores)
    wh = found.boxes[:, 2:] - found.boxes[:, :2]
    columns = [np.full(count, image), found.boxes[:, :2], wh, found.scores, found.classes]
    return np.column_stack(columns).astype(np.float64).reshape(count, 7)
