"""Labelled images: what is to be seen on each, one at a time.

    open_examples("yolo:val/", "detection")     KIND:WHERE, see KINDS

Only file names and what the label files say of boxes in one place (a COCO json) are held; images
and labels beside them are read when an example is asked for.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.named import imported, unknown

Array = np.ndarray[Any, Any]

_HERE = "graphopt.evaluate.readers"

# What --data may start with, and who reads it.
KINDS: dict[str, str] = {
    "coco": f"{_HERE}.coco:Coco",
    "yolo": f"{_HERE}.yolo:Yolo",
    "voc": f"{_HERE}.voc:Voc",
    "imagefolder": f"{_HERE}.folders:Folders",
    "npz": f"{_HERE}.arrays:Arrays",
    "shapes": f"{_HERE}.shapes:Shapes",
    "patches": f"{_HERE}.shapes:Patches",
}
TASKS = ("detection", "classification")


def _no_boxes() -> Array:
    return np.zeros((0, 4))


def _nothing() -> Array:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Example:
    """An image and what is to be seen on it.

    Attributes:
        image: its file, or its pixels (height, width, channels), or a ready input.
        classes: for detection one class per box, for classification the one class.
        boxes: (n, 4) x1 y1 x2 y2 in pixels of the image.
        crowd: per box: several objects at once, which count neither as found nor as missed.
        areas: per box, in pixels; that of the box where the labels do not say.
    """

    image: Path | Array
    classes: Array = field(default_factory=_nothing)
    boxes: Array = field(default_factory=_no_boxes)
    crowd: Array | None = None
    areas: Array | None = None


class Examples(abc.ABC):
    """A labelled set; `names` are its classes in the order of their numbers, where they are known."""

    task: ClassVar[str]
    names: tuple[str, ...] = ()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    def __iter__(self) -> Iterator[Example]:
        return (self[k] for k in range(len(self)))


def open_examples(source: str | Examples, task: str) -> Examples:
    """The labelled set at KIND:WHERE.

    Raises:
        UsageError: an unknown kind or task, nothing there, no labels, or labels for another task.
    """
    if task not in TASKS:
        raise UsageError(f"task: {unknown('task', task, TASKS)}")
    if isinstance(source, Examples):
        return _for_task(source, task, type(source).__name__)
    kind, colon, where = source.partition(":")
    if not colon or not where:
        kinds = ", ".join(f"{k}:..." for k in KINDS)
        raise UsageError(f"labelled data {source!r}: write where it is as one of {kinds}")
    if kind not in KINDS:
        raise UsageError(f"labelled data {source!r}: {unknown('kind', kind, KINDS)}")
    return _for_task(imported(KINDS[kind])(where), task, source)


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spaced: sets are often sorted by class.

    Raises:
        UsageError: a limit below 1.
    """
    if limit is None or limit >= count:
        return list(range(count))
    if limit < 1:
        raise UsageError(f"limit={limit} leaves no images; it is at least 1")
    return [k * count // limit for k in range(limit)]


def class_names(folder: Path, found: Iterable[str]) -> tuple[str, ...]:
    """The classes in the order of their numbers: `classes.txt` of the folder, else alphabetical.

    Raises:
        UsageError: a class that `classes.txt` does not have.
    """
    have = sorted(set(found))
    listed = folder / "classes.txt"
    if not listed.is_file():
        return tuple(have)
    names = tuple(line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip())
    for name in have:
        if name not in names:
            raise UsageError(f"{listed}: {unknown('class', name, names)}")
    return names


def existing(path: Path, what: str) -> Path:
    """The path, if it is there.

    Raises:
        UsageError: it is not.
    """
    if not path.exists():
        raise UsageError(f"labelled data: no {what} {path}")
    return path


def _for_task(examples: Examples, task: str, source: str) -> Examples:
    if examples.task != task:
        raise UsageError(f"{source} has labels for {examples.task}, not for {task}")
    if not len(examples):
        raise UsageError(f"labelled data {source}: no labelled image in it")
    return examples
