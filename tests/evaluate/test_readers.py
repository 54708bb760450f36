"""Labelled sets: what is read from every format, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import coco, picture, voc, yolo

from graphopt.errors import UsageError
from graphopt.evaluate import open_examples
from graphopt.evaluate.examples import spread

# --- what is read -----------------------------------------------------------------------------


def test_yolo_boxes_in_pixels_of_the_image(tmp_path: Path) -> None:
    a, b = open_examples(f"yolo:{yolo(tmp_path)}", "detection")
    assert a.boxes.tolist() == [[10, 5, 30, 15]]
    assert a.classes.tolist() == [1]
    assert len(b.boxes) == 0


def test_a_split_of_yolo(tmp_path: Path) -> None:
    picture(yolo(tmp_path) / "images" / "val" / "c.png")
    (tmp_path / "labels" / "val").mkdir()
    (tmp_path / "labels" / "val" / "c.txt").write_text("0 0.5 0.5 1 1\n\n")
    (only,) = open_examples(f"yolo:{tmp_path}/images/val", "detection")
    assert only.boxes.tolist() == [[0, 0, 40, 20]]


def test_coco_classes_in_the_order_of_ids(tmp_path: Path) -> None:
    examples = open_examples(f"coco:{coco(tmp_path)}", "detection")
    assert examples.names == ("early", "late")
    a, b = examples
    assert a.image == tmp_path / "a.png"
    assert a.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 9, 9]]
    assert a.classes.tolist() == [1, 0]
    assert a.areas is not None
    assert a.areas.tolist() == [5, 81]
    assert a.crowd is not None
    assert a.crowd.tolist() == [False, True]
    assert len(b.boxes) == 0


def test_coco_images_elsewhere(tmp_path: Path) -> None:
    file = coco(tmp_path)
    (tmp_path / "there").mkdir()
    examples = open_examples(f"coco:{file}:{tmp_path}/there", "detection")
    assert examples[0].image == tmp_path / "there" / "a.png"


def test_voc(tmp_path: Path) -> None:
    examples = open_examples(f"voc:{voc(tmp_path)}", "detection")
    assert examples.names == ("cat", "dog")
    (only,) = examples
    assert only.boxes.tolist() == [[0, 0, 11, 9], [2, 3, 5, 6]]
    assert only.classes.tolist() == [1, 0]
    assert only.crowd is not None
    assert only.crowd.tolist() == [False, True]


def test_a_split_of_voc_and_its_own_order_of_classes(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "classes.txt").write_text("dog\ncat\nbird\n")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    (only,) = open_examples(f"voc:{root}:test", "detection")
    assert only.classes.tolist() == [0, 1]


def test_class_folders(tmp_path: Path) -> None:
    for name in ("dog/2.png", "dog/1.png", "ant/3.png"):
        picture(tmp_path / name)
    examples = open_examples(f"imagefolder:{tmp_path}", "classification")
    assert examples.names == ("ant", "dog")
    assert [(e.image.name, int(e.classes[0])) for e in examples] == [  # type: ignore[union-attr]
        ("3.png", 0),
        ("1.png", 1),
        ("2.png", 1),
    ]


def test_arrays(tmp_path: Path) -> None:
    x, y = np.arange(24).reshape(2, 3, 2, 2), np.array([[4], [5]], np.uint8)
    np.savez(tmp_path / "set.npz", x=x, y=y, x_test=x[:1], y_test=y[:1])
    a, b = open_examples(f"npz:{tmp_path}/set.npz", "classification")
    assert np.array_equal(b.image, x[1])  # type: ignore[arg-type]
    assert (a.classes.tolist(), b.classes.tolist()) == ([4], [5])
    assert len(open_examples(f"npz:{tmp_path}/set.npz:test", "classification")) == 1


def test_a_limit_is_spread_over_the_set() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 9) == [0, 1, 2]
    with pytest.raises(UsageError, match="at least 1"):
        spread(10, 0)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "task", "reason"),
    [
        ("images/", "detection", "coco:..., yolo:..."),
        ("yollo:x", "detection", "did you mean yolo"),
        ("yolo:absent", "detection", "no folder absent"),
        ("yolo:absent", "detektion", "did you mean detection"),
        ("coco:absent.json", "detection", "no file absent.json"),
        ("voc:absent", "detection", "no folder absent"),
        ("npz:absent.npz", "classification", "no file absent.npz"),
        ("imagefolder:absent", "classification", "no folder absent"),
    ],
)
def test_sources_that_cannot_be_meant(source: str, task: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        open_examples(source, task)
    assert reason in str(error.value)


def test_labels_for_another_task(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="labels for detection, not for classification"):
        open_examples(f"yolo:{yolo(tmp_path)}", "classification")


def test_yolo_without_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no label file for any image"):
        open_examples(f"yolo:{yolo(tmp_path, labels=None)}", "detection")


@pytest.mark.parametrize("line", ["1 0.5 0.5 0.5", "dog 0 0 1 1", "-1 0 0 1 1", "1 nan 0 1 1"])
def test_a_yolo_line_that_is_none(tmp_path: Path, line: str) -> None:
    examples = open_examples(
        f"yolo:{yolo(tmp_path, labels=f'0 0 0 1 1{chr(10)}{line}')}", "detection"
    )
    with pytest.raises(UsageError, match=r"a.txt, line 2.*is not `class cx cy w h`"):
        _ = examples[0]


def test_an_image_that_is_none(tmp_path: Path) -> None:
    (yolo(tmp_path) / "images" / "a.png").write_text("not an image")
    examples = open_examples(f"yolo:{tmp_path}", "detection")
    with pytest.raises(UsageError, match="a.png cannot be read as an image"):
        _ = examples[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": []}, "no annotations"),
        ({"categories": []}, "category 90, which `categories` does not have"),
    ],
)
def test_coco_that_says_too_little(
    tmp_path: Path, changes: dict[str, list[int]], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        open_examples(f"coco:{coco(tmp_path, **changes)}", "detection")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_json_that_is_no_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match=r"x.json (cannot be read|is no COCO json)"):
        open_examples(f"coco:{tmp_path}/x.json", "detection")


def test_voc_without_images_or_with_broken_xml(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages" / "a.png").unlink()
    with pytest.raises(UsageError, match="no image"):
        _ = open_examples(f"voc:{root}", "detection")[0]
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(UsageError, match="a.xml cannot be read"):
        open_examples(f"voc:{root}", "detection")


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    np.savez(file, x=np.zeros((2, 3)), y=np.zeros(3, int))
    with pytest.raises(UsageError, match="2 images and 3 labels"):
        open_examples(f"npz:{file}", "classification")
    with pytest.raises(UsageError, match="has no arrays x_val and y_val; it has x, y"):
        open_examples(f"npz:{file}:val", "classification")
    file.write_text("nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        open_examples(f"npz:{file}", "classification")


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match="one per class"):
        open_examples(f"imagefolder:{tmp_path}", "classification")


def test_a_class_that_is_not_listed(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.png")
    (tmp_path / "classes.txt").write_text("dig\ncat\n")
    with pytest.raises(UsageError, match=r"classes.txt: .*dog.*did you mean dig"):
        open_examples(f"imagefolder:{tmp_path}", "classification")
