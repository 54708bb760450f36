"""Labelled images as samples for training: the input, and what is to be found on it.

samples[i] == {"images": (3, 416, 416) float32, "targets": (MOST, 5) float32}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data import Samples
from graphopt.errors import GraphoptError, UsageError
from graphopt.evaluate import Decoder, Example, Examples, open_examples
from graphopt.evaluate.pictures import Pictures
from graphopt.ir.graph import Graph
from graphopt.tasks.setup import TaskSetup, meaning_of

Array = np.ndarray[Any, Any]

TARGETS = "targets"
_MOSAIC = 4  # a mosaic shows the boxes of so many images
_LEAST = 1.0  # pixels of the input: what is narrower or lower cannot be seen


class Labelled:
    """A labelled set by number, read when asked for; any process may ask."""

    def __init__(self, examples: Examples, pictures: Pictures, graph: Graph, classes: int) -> None:
        """Samples for the only input of `graph`, which has so many classes.

        Raises:
            UsageError: labels that cannot be meant.
        """
        self.examples, self.pictures, self.classes = examples, pictures, classes
        self.name, self.dtype = graph.inputs[0].name, np.dtype(graph.inputs[0].dtype)
        self.is_detection = examples.task == "detection"
        counts = [len(rows) for rows in _labels(examples, classes)]
        self.most = max(_MOSAIC * max(counts, default=0), 1)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Array]:
        """The input without a batch axis, and "targets".

        Raises:
            UsageError: an image that cannot be read, or labels that cannot be meant.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the set has {len(self)} images")
        example = self.examples[index]
        rows = checked_labels(example, self.classes)
        image, placed = self.pictures.input_of(example.image)
        made = {self.name: image.astype(self.dtype, copy=False)}
        if not self.is_detection:
            return {**made, TARGETS: np.asarray(rows[0, 0], np.int64)}
        _check_inside(rows[:, 1:], placed.image, example)
        rows[:, 1:] = placed.to_input(rows[:, 1:])
        return {**made, TARGETS: self._filled(rows)}

    def _filled(self, rows: Array) -> Array:
        """The boxes that can be seen, cut at the edges of the input; class -1 fills up."""
        height, width = self.pictures.size
        rows[:, 1:] = np.clip(rows[:, 1:], 0, (width, height, width, height))
        rows = rows[(rows[:, 3:] - rows[:, 1:3] >= _LEAST).all(1)]
        filled = np.full((self.most, 5), (-1, 0, 0, 0, 0), np.float32)
        filled[: len(rows)] = rows
        return filled


def labelled_samples(
    source: str | Examples, graph: Graph, setup: TaskSetup, *, preprocess: str = ""
) -> Labelled:
    """Labelled images as a network and its loss want them.

    Detection: targets (MOST, 5) float32 of class, x1, y1, x2, y2 in pixels of the input; class -1
    fills up. Boxes of crowds and boxes below a pixel are left out. MOST is four times the largest number
    of boxes on an image of the set (a mosaic shows four images), at least 1. Classification: targets
    () int64, the class.

    Args:
        source: as for `graphopt.evaluate.evaluate`.
        graph: whose only input is fed.
        setup: see `task_for`.
        preprocess: as for `evaluate`: what it leaves out is usual for the decoder.

    Raises:
        UsageError: no such data, several inputs, no box in the whole set, or labels that cannot be
            meant: a class the network has not, a box that is not finite or turned inside out.
    """
    examples, pictures = _pictures_of(source, graph, setup.task, setup.decoder, preprocess)
    made = Labelled(examples, pictures, graph, setup.classes)
    if made.is_detection and made.most == 1:
        raise UsageError(f"labelled data {source}: there is not one box on its {len(made)} images")
    return made


def unlabelled_samples(
    source: str | Examples, graph: Graph, task: str = "auto", *, preprocess: str = ""
) -> Samples:
    """The images of a labelled set without what is on them, for networks with a loss or without.

    Args:
        source: as for `graphopt.evaluate.evaluate`.
        graph: whose only input is fed.
        task: see `meaning_of`.
        preprocess: as for `labelled_samples`.

    Raises:
        UsageError: no such data, or several inputs; an image that cannot be read is named when it is
            asked for.
        ModelError: see `meaning_of`.
    """
    kind, decoder = meaning_of(graph, task)
    examples, pictures = _pictures_of(source, graph, kind, decoder, preprocess)
    name, dtype = graph.inputs[0].name, np.dtype(graph.inputs[0].dtype)

    def read(index: int) -> dict[str, Array]:
        image, _ = pictures.input_of(examples[index].image)
        return {name: image.astype(dtype, copy=False)}

    return Samples(len(examples), read, str(source))


def _pictures_of(
    source: str | Examples, graph: Graph, task: str, decoder: Decoder | None, preprocess: str
) -> tuple[Examples, Pictures]:
    if len(graph.inputs) != 1:
        raise UsageError(f"the model has {len(graph.inputs)} inputs; images feed one")
    usual = decoder.preprocess if decoder else ""
    return open_examples(source, task), Pictures.for_graph(graph, preprocess, usual)


def checked_labels(example: Example, classes: int) -> Array:
    """Rows (n, 5) of class and box on the picture, without crowds; boxes are zero for a class alone.

    Raises:
        UsageError: labels that cannot be meant, naming the picture.
    """
    kinds = np.asarray(example.classes).reshape(-1)
    boxes = np.asarray(example.boxes, np.float64).reshape(-1, 4)
    if len(kinds) and (kinds.min() < 0 or kinds.max() >= classes):
        bad = int(kinds.min() if kinds.min() < 0 else kinds.max())
        raise UsageError(
            f"{_where(example)} is labelled with class {bad}; the model has {classes} (0 is the first)"
        )
    if not np.isfinite(boxes).all():
        raise UsageError(f"{_where(example)} has a box that is not finite: {_first(boxes)}")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        bad_box = boxes[(boxes[:, 2:] < boxes[:, :2]).any(1)][0].tolist()
        raise UsageError(
            f"{_where(example)} has a box turned inside out: {bad_box} is not x1 y1 x2 y2"
        )
    if not len(boxes):
        boxes = np.zeros((len(kinds), 4))
    rows = np.concatenate([kinds[:, None].astype(np.float64), boxes], axis=1)
    return rows if example.crowd is None else rows[~np.asarray(example.crowd, bool)]


def _labels(examples: Examples, classes: int) -> Iterator[Array]:
    """The labels of all that can be read; what cannot is told of when its sample is asked for."""
    for index in range(len(examples)):
        try:
            example = examples[index]
        except GraphoptError:
            continue
        yield checked_labels(example, classes)


def _check_inside(boxes: Array, size: tuple[int, int], example: Example) -> None:
    is_outside = ((boxes[:, :2] >= size) | (boxes[:, 2:] <= 0)).any(1)
    if is_outside.any():
        bad = boxes[is_outside][0].tolist()
        raise UsageError(
            f"{_where(example)} has a box outside of its {size[0]}x{size[1]} pixels: {bad}"
        )


def _first(boxes: Array) -> list[float]:
    return [float(v) for v in boxes[~np.isfinite(boxes).all(1)][0]]


def _where(example: Example) -> str:
    return str(example.image) if isinstance(example.image, Path) else "an array"
