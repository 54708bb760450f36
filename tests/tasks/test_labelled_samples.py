"""Labelled images as samples: where boxes lie on the input, what is left out, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate.making import coco, detector, picture, yolo
from tasks.painting import Listed, painted
from tasks.test_task_setup import RETINA, TINY, classifier

from graphopt.errors import UsageError
from graphopt.evaluate import Example
from graphopt.ir.graph import Graph
from graphopt.tasks import Labelled, labelled_samples, task_for
from graphopt.training.feed import Order, loader

NOTHING = [-1, 0, 0, 0, 0]


def samples_of(source: Any, graph: Graph | None = None, **options: str) -> Labelled:
    graph = graph or detector(TINY)
    return labelled_samples(source, graph, task_for(graph), **options)


def rows(source: Any, index: int = 0, **options: str) -> list[list[float]]:
    found = samples_of(source, **options)[index]["targets"]
    assert (found.dtype, found.shape[1]) == (np.float32, 5)
    return [row for row in found.tolist() if row[0] >= 0]


def example(*boxes: tuple[float, ...], kinds: Any = None, **more: Any) -> Example:
    kinds = np.zeros(len(boxes), np.int64) if kinds is None else np.array(kinds)
    pixels = np.zeros((64, 64, 3), np.uint8)
    return Example(pixels, kinds, np.array(boxes, np.float64).reshape(-1, 4), **more)


def test_boxes_follow_the_letterbox(tmp_path: Path) -> None:
    # 40 x 20 on 64 x 64: 1.6 times, 16 pixels down
    source = f"yolo:{yolo(tmp_path, '1 0.5 0.5 0.5 0.5')}"
    assert rows(source) == [[1, 16, 24, 48, 40]]
    assert rows(source, preprocess="stretch") == [[1, 16, 16, 48, 48]]
    assert rows(source, preprocess="top-left") == [[1, 16, 8, 48, 24]]
    # 3.2 times, 32 pixels cut off on both sides: from 10 to 30 of 40 is from 0 to 64
    assert rows(source, preprocess="crop") == [[1, 0, 16, 64, 48]]
    made = samples_of(source)[0]["x"]
    assert (made.shape, made.dtype) == ((3, 64, 64), np.float32)
    assert made[0, 0, 0] == pytest.approx(114 / 255)


def test_pictures_become_inputs_as_is_usual_for_the_decoder(tmp_path: Path) -> None:
    source = f"yolo:{yolo(tmp_path, '1 0.5 0.5 0.5 0.5')}"
    made = samples_of(source, detector(RETINA, 128))[0]
    assert made["targets"][0].tolist() == [1, 32, 16, 96, 48]  # in the corner
    black = [(0 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert made["x"][:, 0, 0].tolist() == pytest.approx(black)
    other = samples_of(source, detector(RETINA, 128), preprocess="mean=0, std=1")[0]
    assert other["x"][:, 0, 0].tolist() == [0, 0, 0]


def test_what_is_cut_off_is_left_out(tmp_path: Path) -> None:
    source = f"yolo:{yolo(tmp_path, '1 0.1 0.5 0.1 0.5')}"
    assert len(rows(source)) == 1
    assert rows(source, preprocess="crop") == []


def test_room_for_a_mosaic() -> None:
    found = samples_of(
        Listed(
            [example((1, 1, 9, 9), (3, 3, 5, 5), (7, 7, 9, 9)), example(), example((0, 0, 2, 2))]
        )
    )
    assert found[0]["targets"].shape == (12, 5)
    assert found[1]["targets"].tolist() == [NOTHING] * 12
    assert found[2]["targets"].tolist() == [[0, 0, 0, 2, 2]] + [NOTHING] * 11


def test_crowds_and_specks_are_left_out() -> None:
    crowded = example((1, 1, 9, 9), (2, 2, 6, 6), crowd=np.array([True, False]))
    assert rows(Listed([crowded])) == [[0, 2, 2, 6, 6]]
    specks = example((1, 1, 1.5, 9), (3, 3, 3, 3), (-4, -4, 3, 64), (60, 1, 99, 9))
    assert rows(Listed([specks])) == [[0, 0, 0, 3, 64], [0, 60, 1, 64, 9]]
    assert samples_of(Listed([crowded])).most == 4


def test_a_coco_json(tmp_path: Path) -> None:
    source = f"coco:{coco(tmp_path)}"
    assert rows(source) == [pytest.approx([1, 1.6, 19.2, 6.4, 25.6])]


def test_classes(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", "dog/c.png"):
        picture(tmp_path / name)
    graph = classifier()
    found = labelled_samples(f"imagefolder:{tmp_path}", graph, task_for(graph))
    made = [found[k]["targets"] for k in range(3)]
    assert [(int(t), t.shape, t.dtype) for t in made] == [
        (0, (), np.int64),
        (1, (), np.int64),
        (1, (), np.int64),
    ]
    assert found[0]["x"].shape == (3, 4, 4)


def test_workers_read_the_same() -> None:
    found = samples_of(painted(4), detector("1,24,4,4 a; 1,24,2,2 b"))
    order = Order(4, 2, seed=0)
    numbers = list(order)
    names = ["x", "targets"]
    for which, (tensors, skipped) in zip(
        numbers[:2], loader(found, names, order, workers=1, skip=False), strict=False
    ):
        assert not skipped
        for row, index in enumerate(which):
            assert all(
                np.array_equal(t[row], found[index][n]) for t, n in zip(tensors, names, strict=True)
            )
    with pytest.raises(IndexError, match="the set has 4 images"):
        found[4]


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (example((1, 1, 9, 9), kinds=[2]), "is labelled with class 2; the model has 2"),
        (example((1, 1, 9, 9), kinds=[-1]), "is labelled with class -1"),
        (example((1, math.nan, 9, 9)), r"a box that is not finite: \[1.0, nan"),
        (example((1, 1, math.inf, 9)), "a box that is not finite"),
        (example((9, 1, 1, 9)), r"turned inside out: \[9.0, 1.0, 1.0, 9.0\] is not x1 y1 x2 y2"),
        (example(), "there is not one box on its 1 images"),
    ],
)
def test_labels_that_cannot_be_meant(bad: Example, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        samples_of(Listed([bad]))


def test_a_box_outside_of_the_picture_is_told_of_when_it_is_read() -> None:
    for box in ((70, 1, 90, 9), (-9, 1, -1, 9), (1, 64, 9, 70)):
        found = samples_of(Listed([example((1, 1, 9, 9)), example((2, 2, 9, 9), box)]))
        assert len(found[0]["targets"]) == 8
        with pytest.raises(UsageError, match="an array has a box outside of its 64x64 pixels"):
            found[1]


def test_a_file_is_named(tmp_path: Path) -> None:
    source = f"yolo:{yolo(tmp_path, '7 0.5 0.5 0.5 0.5')}"
    with pytest.raises(UsageError, match=r"a.png is labelled with class 7; the model has 2"):
        samples_of(source)


def test_an_image_that_cannot_be_read_waits_until_it_is_asked_for(tmp_path: Path) -> None:
    source = f"yolo:{yolo(tmp_path)}"
    (tmp_path / "images" / "sub" / "b.png").write_bytes(b"nonsense")
    found = samples_of(source)
    assert len(found) == 2
    with pytest.raises(UsageError, match="cannot be read as an image"):
        found[1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("yolo:absent", "no folder absent"),
        ("photos:x", "no kind is called 'photos'"),
        (Listed([]), "no labelled image in it"),
        (Listed([example()], "classification"), "has labels for classification"),
    ],
)
def test_sets_that_are_none(source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        samples_of(source)


def test_two_inputs() -> None:
    graph = detector(TINY)
    setup = task_for(graph)
    graph.inputs.append(graph.inputs[0])
    with pytest.raises(UsageError, match="2 inputs; images feed one"):
        labelled_samples(painted(2), graph, setup)
