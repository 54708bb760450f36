"""YOLO labels: one text file per image, a line `class cx cy w h` per box in fractions of the image.

    yolo:dir                     dir/images/**/a.jpg with dir/labels/**/a.txt
    yolo:dir/images/val2017      a split of it: labels are in dir/labels/val2017

An image without a label file shows nothing that is labelled.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphopt.data.images import SUFFIXES
from graphopt.errors import SaveError, UsageError
from graphopt.evaluate.examples import Array, Example, Examples, existing
from graphopt.evaluate.pictures import image_size


class Yolo(Examples):
    """Images with a text file of boxes each."""

    task: ClassVar[str] = "detection"

    def __init__(self, where: str) -> None:
        root = existing(Path(where), "folder")
        images = root / "images" if (root / "images").is_dir() else root
        if "images" not in images.parts:
            raise UsageError(f"labelled data {root}: no folder `images` in it (nor is it in one)")
        at = len(images.parts) - 1 - images.parts[::-1].index("images")
        self._images = images
        self._labels = Path(*images.parts[:at], "labels", *images.parts[at + 1 :])
        existing(self._labels, "folder of labels")
        self._paths = sorted(p for p in images.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self._paths:
            raise UsageError(f"labelled data {images}: no image in it ({', '.join(SUFFIXES)})")
        if not any(self._label(p).exists() for p in self._paths):
            raise UsageError(f"labelled data {self._labels}: no label file for any image")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        path = self._paths[index]
        label = self._label(path)
        rows = _rows(label) if label.exists() else np.zeros((0, 5))
        width, height = image_size(path)
        centre = rows[:, 1:3] * (width, height)
        half = rows[:, 3:5] * (width / 2, height / 2)
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return Example(path, rows[:, 0].astype(np.int64), boxes)

    def _label(self, image: Path) -> Path:
        return (self._labels / image.relative_to(self._images)).with_suffix(".txt")


def _rows(file: Path) -> Array:
    rows = []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(w) for w in words[:5]]
        except ValueError:
            row = []
        if len(row) < 5 or row[0] < 0 or row[0] != int(row[0]) or not np.isfinite(row).all():
            raise UsageError(f"{file}, line {number}: {line!r} is not `class cx cy w h`")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 5)


def write(examples: Examples, folder: Path) -> int:
    """Writes labelled images of pixels as folder/images/*.png with folder/labels/*.txt, all or none.

    Returns:
        How many.

    Raises:
        UsageError: the folder is there and not empty, or an image is no pixels.
        SaveError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: name a new folder")
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _write(examples, beside)
        beside.replace(folder)
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(examples)


def _write(examples: Examples, folder: Path) -> None:
    from PIL import Image

    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    if examples.names:
        (folder / "classes.txt").write_text("\n".join(examples.names) + "\n", "utf-8")
    for k, example in enumerate(examples):
        if isinstance(example.image, Path):
            raise UsageError(f"{example.image} is a file already")
        Image.fromarray(example.image).save(folder / "images" / f"{k:06d}.png")
        label = folder / "labels" / f"{k:06d}.txt"
        label.write_text(_text(example, example.image.shape), "utf-8")


def _text(example: Example, shape: tuple[int, ...]) -> str:
    """A line `class cx cy w h` per box."""
    size = np.array([shape[1], shape[0]])
    low, high = example.boxes[:, :2] / size, example.boxes[:, 2:] / size
    rows = np.concatenate([(low + high) / 2, high - low], 1)
    return "".join(
        f"{c} {' '.join(f'{v:.6f}' for v in row)}\n"
        for c, row in zip(example.classes, rows.tolist(), strict=True)
    )
