"""The drawn data set: what is painted is what is labelled, and everybody sees the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.cli import main
from graphopt.errors import UsageError
from graphopt.evaluate import open_examples
from graphopt.evaluate.readers import shapes
from graphopt.evaluate.readers.shapes import CLASSES, Shapes, draw
from graphopt.evaluate.readers.yolo import write


def test_images_follow_from_split_and_number_alone() -> None:
    first, again = Shapes("train,count=30"), Shapes("train,count=9,size=160")
    assert np.array_equal(first[7].image, again[7].image)
    assert np.array_equal(first[7].boxes, again[7].boxes)
    other = Shapes("test,count=9")[7]
    assert not np.array_equal(first[7].image, other.image)


def test_every_class_is_there_and_boxes_lie_in_the_image() -> None:
    drawn = list(Shapes("test,count=60,size=96"))
    assert set(np.concatenate([e.classes for e in drawn])) == set(range(len(CLASSES)))
    assert 2 < np.mean([len(e.classes) for e in drawn]) < 4
    for each in drawn:
        assert each.image.shape == (96, 96, 3)
        assert len(each.classes) == len(each.boxes)
        assert (each.boxes >= 0).all()
        assert (each.boxes <= 96).all()
        assert (each.boxes[:, 2:] - each.boxes[:, :2] > 4).all()


def test_objects_are_painted_where_the_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its objects an image differs from itself within the boxes, and nowhere else."""
    with_objects = [draw(0, k, 128) for k in range(12)]
    monkeypatch.setattr(shapes, "_paint", lambda *_: None)
    for k, each in enumerate(with_objects):
        changed = np.abs(each.image.astype(int) - draw(0, k, 128).image).max(2) > 0
        labelled = np.zeros((128, 128), bool)
        for x1, y1, x2, y2 in each.boxes:
            labelled[int(y1) : int(np.ceil(y2)) + 1, int(x1) : int(np.ceil(x2)) + 1] = True
            inner = changed[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            rows, columns = np.flatnonzero(inner.any(1)), np.flatnonzero(inner.any(0))
            assert rows[0] <= 1
            assert rows[-1] >= len(inner) - 3
            assert columns[0] <= 1
            assert columns[-1] >= inner.shape[1] - 3
        assert not (changed & ~labelled).any()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "split"),
        ("vall", "split"),
        ("train,size=8", "size=8"),
        ("train,count=0", "count=0"),
        ("train,many=3", "many"),
        ("train,count=a", "count=a"),
    ],
)
def test_what_cannot_be_drawn_is_refused(where: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Shapes(where)


def test_written_as_files_they_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    drawn = Shapes("train,count=5,size=64")
    assert write(drawn, tmp_path / "set") == 5
    read = open_examples(f"yolo:{tmp_path}/set", "detection")
    for one, other in zip(drawn, read, strict=True):
        assert np.array_equal(one.classes, other.classes)
        assert np.allclose(one.boxes, other.boxes, atol=1e-3)
    assert (tmp_path / "set" / "classes.txt").read_text().split() == list(CLASSES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_draw_writes_a_folder_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["draw", "-o", str(tmp_path / "set"), "--count", "3", "--size", "64"]
    with pytest.raises(SystemExit) as done:
        main(command)
    assert done.value.code == 0
    assert len(list((tmp_path / "set" / "images").iterdir())) == 3
    with pytest.raises(SystemExit) as again:
        main(command)
    assert again.value.code != 0
    assert "is there already" in capsys.readouterr().err


def test_patches_show_one_object_of_every_class() -> None:
    drawn = open_examples("patches:train,count=80", "classification")
    kinds = [int(e.classes[0]) for e in drawn]
    assert set(kinds) == set(range(len(drawn.names)))
    assert drawn[3].image.shape == (32, 32, 3)
    again = open_examples("patches:train,count=9", "classification")
    assert np.array_equal(drawn[3].image, again[3].image)
    assert not np.array_equal(
        drawn[3].image, open_examples("patches:test", "classification")[3].image
    )
