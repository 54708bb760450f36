"""Suppression, placement of pictures, average precision and top-k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from
from making import picture
from PIL import Image

from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example
from graphopt.evaluate.metrics import average_precision, top_accuracy
from graphopt.evaluate.nms import Detections, Rules, detections, suppress
from graphopt.evaluate.pictures import Pictures, image_size

Array = np.ndarray[Any, Any]


# --- suppression ------------------------------------------------------------------------------


def overlap(a: Array, b: Array) -> float:
    size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = float(size.prod())
    return shared / float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def naive(boxes: Array, classes: Array, iou: float, most: int) -> list[int]:
    kept: list[int] = []
    for k in range(len(boxes)):
        same = [j for j in kept if classes[j] == classes[k]]
        if len(kept) < most and all(overlap(boxes[j], boxes[k]) <= iou for j in same):
            kept.append(k)
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou", [0.3, 0.65])
def test_suppression_is_the_naive_one(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 60, (120, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (120, 2))], 1)
    classes = rng.integers(0, 4, 120)
    for most in (10, 300):
        assert suppress(boxes, classes, iou, most).tolist() == naive(boxes, classes, iou, most)


def test_a_box_may_be_several_classes_or_only_its_best() -> None:
    boxes, scores = np.array([[0.0, 0, 1, 1]]), np.array([[0.2, 0.5, 0.0]])
    assert detections(boxes, scores, Rules()).classes.tolist() == [1, 0]
    assert detections(boxes, scores, Rules(), every_class=False).classes.tolist() == [1]


def test_nothing_above_the_threshold() -> None:
    found = detections(np.ones((3, 4)), np.zeros((3, 2)), Rules())
    assert (found.boxes.shape, len(found.scores), len(found.classes)) == ((0, 4), 0, 0)
    none = detections(np.zeros((0, 4)), np.zeros((0, 2)), Rules(), every_class=False)
    assert len(none.scores) == 0


# --- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["letterbox", "letterbox, top-left", "stretch", "crop"])
@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 41), (33, 33)])
def test_boxes_there_and_back(tmp_path: Path, text: str, width: int, height: int) -> None:
    path = picture(tmp_path / "a.png", width, height)
    pictures = Pictures.for_graph(graph_from(IMAGE), text)
    _, placed = pictures.input_of(path)
    boxes = np.array([[1.0, 2, 12, 13], [0, 0, width, height]])
    assert placed.to_image(placed.to_input(boxes)) == pytest.approx(boxes)


IMAGE = "(float[1,3,32,48] x) => (float[1,3,32,48] y) { y = Identity (x) }"


@pytest.mark.parametrize("text", ["letterbox", "letterbox, top-left", "stretch", "crop"])
@pytest.mark.parametrize(("width", "height"), [(96, 40), (50, 90), (95, 63)])
def test_a_box_lies_on_what_it_surrounds(
    tmp_path: Path, text: str, width: int, height: int
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    left, top = width // 2 - 8, height // 2 - 8
    pixels[top : top + 16, left : left + 16] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    made, placed = Pictures.for_graph(graph_from(IMAGE), f"{text}, pad=0").input_of(
        tmp_path / "a.png"
    )
    rows, columns = np.nonzero(made[0] > 0.5)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    box = placed.to_input(np.array([[left, top, left + 16, top + 16]]))[0]
    assert box == pytest.approx(seen, abs=1.0)


@pytest.mark.parametrize(
    ("text", "scale", "offset"),
    [
        ("letterbox", (0.5, 0.5), (0, 6)),
        ("stretch", (0.5, 0.8), (0, 0)),
        ("crop", (0.8020833333333334, 0.8), (-14, 0)),  # 77 of 76.8 columns, 29 too many
    ],
)
def test_where_a_picture_lies(
    text: str, scale: tuple[float, float], offset: tuple[int, int]
) -> None:
    placed = Pictures.for_graph(graph_from(IMAGE), text).placement(96, 40)
    assert (placed.scale, placed.offset, placed.image) == (scale, offset, (96, 40))


def test_boxes_are_cut_at_the_edges_of_the_picture() -> None:
    placed = Pictures.for_graph(graph_from(IMAGE), "").placement(96, 32)
    assert placed.to_image(np.array([[-5.0, 0, 99, 32]])).tolist() == [[0, 0, 96, 32]]


def test_a_turned_picture_has_its_sides_swapped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == (10, 30)


def test_pictures_in_arrays() -> None:
    graph = graph_from("(float[N,3,2,2] x) => (float[N,3,2,2] y) { y = Identity (x) }")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    made, _ = Pictures.for_graph(graph, "bgr, scale=2, mean=1, std=2").input_of(pixels)
    assert made[:, 0, 0].tolist() == [1.5, 0.5, -0.5]
    ready = np.ones((3, 2, 2), np.float32)
    assert Pictures.for_graph(graph, "").input_of(ready)[0] is ready
    with pytest.raises(UsageError, match="4x4 in an array; the model takes 2x2"):
        Pictures.for_graph(graph, "").input_of(np.zeros((4, 4, 3), np.uint8))


# --- average precision ------------------------------------------------------------------------


TRUTH = [
    Example(Path("a"), np.array([0, 1]), np.array([[0.0, 0, 40, 40], [50, 50, 150, 150]])),
    Example(Path("b"), np.array([0]), np.array([[10.0, 10, 60, 60]])),
]


def found(shift: float = 0.0, score: float = 0.9) -> list[Detections]:
    return [Detections(t.boxes + shift, np.full(len(t.classes), score), t.classes) for t in TRUTH]


def test_perfect_detections() -> None:
    metrics = average_precision(TRUTH, found())
    assert (metrics["ap"], metrics["ap50"]) == (pytest.approx(1), pytest.approx(1))
    assert np.isnan(metrics["ap_small"])


def test_no_detections() -> None:
    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert set(average_precision(TRUTH, [none, none]).values()) == {0.0}


def test_shifted_detections_count_at_low_overlap_only() -> None:
    metrics = average_precision(TRUTH, found(shift=6.0))  # IoU .57, .79 and .63
    assert metrics["ap50"] == pytest.approx(1)
    assert metrics["ap75"] == pytest.approx(0.5)  # the class of the large box
    assert 0.2 < metrics["ap"] < 0.6


def test_a_wrong_class_is_a_miss() -> None:
    wrong = [Detections(d.boxes, d.scores, 1 - d.classes) for d in found()]
    assert average_precision(TRUTH, wrong)["ap"] == 0


def test_crowds_count_neither_way() -> None:
    crowd = [Example(e.image, e.classes, e.boxes, np.arange(len(e.classes)) > 0) for e in TRUTH]
    without = [Detections(d.boxes[:1], d.scores[:1], d.classes[:1]) for d in found()]
    assert average_precision(crowd, without)["ap"] == pytest.approx(1)


def test_no_labelled_box() -> None:
    with pytest.raises(UsageError, match="at least one labelled box"):
        average_precision([Example(Path("a"))], found()[:1])


# --- accuracy ---------------------------------------------------------------------------------


def test_top_k() -> None:
    logits = np.array([[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [1, 0, 0, 0, 0, 0, 0]])
    assert top_accuracy(logits, np.array([0, 3, 6])) == {"top1": 1 / 3, "top5": 2 / 3}
    assert top_accuracy(logits[:, :5], np.array([0, 3, 4])) == {"top1": 1 / 3}


def test_what_the_model_says_of_its_training_comes_before_what_is_usual() -> None:
    graph = graph_from(IMAGE)
    assert Pictures.for_graph(graph, "", "bgr, scale=2").how.scale == 2
    graph.metadata["graphopt.preprocess"] = "rgb, scale=3"
    assert Pictures.for_graph(graph, "", "bgr, scale=2").how.scale == 3
    assert Pictures.for_graph(graph, "scale=4", "bgr, scale=2").how.scale == 4
