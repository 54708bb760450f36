"""Outputs that say exactly what the labels say: no loss, and an average precision of 1.

This ties loss, decoder, suppression and metric together.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from tasks.ideal import CLASSES, judged, layouts, retina_outputs, yolo_loss, yolo_outputs
from torch import Tensor

from graphopt.evaluate.decoders.anchors import AnchorMaps, Yolov3, Yolov3Tiny, Yolov4, Yolov5
from graphopt.evaluate.decoders.retina import Retina
from graphopt.tasks.retinanet import RetinaLoss, RetinaOptions

DECODERS = [Yolov3(), Yolov3Tiny(), Yolov4(), Yolov5()]


@pytest.mark.parametrize("match", ["auto", "iou", "shape"])
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda d: d.name)
@settings(max_examples=25, deadline=None)
@given(targets=layouts())
def test_yolo(decoder: AnchorMaps, match: str, targets: Tensor) -> None:
    assume(bool((targets[..., 0] >= 0).any()))
    if decoder.squared and match == "iou":
        return  # sizes beyond four anchors, which YOLOv5's formula does not reach
    loss = yolo_loss(decoder, match=match)
    outputs = yolo_outputs(loss, targets)
    if decoder.squared and not _reached(loss.matched_boxes(outputs, targets)[1]):
        return
    terms = loss(outputs, targets)
    assert sum(terms.values()) < 0.02, terms
    assert judged(decoder, outputs, targets)["ap"] == pytest.approx(1)
    assert judged(decoder, outputs, _elsewhere(targets))["ap"] < 0.9


def _elsewhere(targets: Tensor) -> Tensor:
    """Six pixels away, which even the largest box feels."""
    return torch.where(targets[..., :1] < 0, targets, targets + torch.tensor([0, 6, 6, 6, 6]))


def _reached(wanted: Tensor) -> bool:
    return bool((wanted[:, 2:].exp() < 3.99).all())


@pytest.mark.parametrize("iou", ["l1", "giou"])
@settings(max_examples=25, deadline=None)
@given(targets=layouts())
def test_retinanet(iou: str, targets: Tensor) -> None:
    assume(bool((targets[..., 0] >= 0).any()))
    loss = RetinaLoss(Retina(), CLASSES, RetinaOptions(iou=iou))
    outputs = retina_outputs(loss, targets)
    terms = loss(outputs, targets)
    assert sum(terms.values()) < 1e-3, terms
    assert judged(Retina(), outputs, targets)["ap"] == pytest.approx(1)
    assert judged(Retina(), outputs, _elsewhere(targets))["ap"] < 0.9
