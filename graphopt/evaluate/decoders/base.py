"""What a decoder is: it turns a detector's outputs into candidate boxes."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.evaluate.nms import Rules

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, Sequence[Any]]  # an output's name -> its shape


@dataclass(frozen=True)
class Candidates:
    """What a detector says of one image: boxes (n, 4) x1 y1 x2 y2 in pixels of the input, scores
    (n, classes)."""

    boxes: Array
    scores: Array


@dataclass(frozen=True)
class Decoder(abc.ABC):
    """Base of every decoder; options are its fields.

    Attributes:
        name: what users call it.
        preprocess: how images usually become inputs for these detectors.
        rules: which boxes usually count.
        every_class: a box may be detected as several classes.
    """

    name: ClassVar[str]
    preprocess: ClassVar[str] = "letterbox"
    rules: ClassVar[Rules] = Rules()
    every_class: ClassVar[bool] = True

    @abc.abstractmethod
    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:
        """Whether the outputs look like what this decodes; `size` is the input's height and width."""

    @abc.abstractmethod
    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """The candidates on every image of the batch."""

    def check(self) -> None:  # noqa: B027
        """Refuses options that do not go together.

        Raises:
            UsageError: they do not.
        """

    def __str__(self) -> str:
        """As `decoder_for` reads it."""
        from graphopt.evaluate.decoders.text import text_of

        return text_of(self)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0))


def corners(xy: Array, wh: Array) -> Array:
    """Centres and sizes (..., 2) as x1 y1 x2 y2 (..., 4)."""
    return np.concatenate([xy - wh / 2, xy + wh / 2], axis=-1)


def grid(height: int, width: int) -> Array:
    """(height, width, 2): the column and row of every cell."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([x, y], axis=-1).astype(np.float32)


def by_area(outputs: Mapping[str, Array]) -> list[Array]:
    """Maps (batch, channels, height, width), finest first."""
    return sorted(outputs.values(), key=lambda m: -m.shape[2] * m.shape[3])


def columns(outputs: Shapes) -> list[int] | None:
    """Of two outputs (batch, rows, columns) the numbers of columns, smallest first; else None."""
    shapes = list(outputs.values())
    if len(shapes) != 2 or any(len(s) != 3 or not isinstance(s[2], int) for s in shapes):
        return None
    return sorted(int(s[2]) for s in shapes)
