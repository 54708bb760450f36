"""Drawn images: shapes on textured backgrounds, as many as wanted, the same everywhere.

    shapes:train                        2000 images of 160x160 pixels
    shapes:test                         500 others
    shapes:train,count=300,size=128     fewer and smaller ones
    patches:train                       one object each, to be classified: 4000 of 32x32 pixels

For trying things out without a data set: image k of a split follows from (split, k) alone, so two
machines see the same images (up to the rounding of the installed Pillow). An image shows one to
five objects of the classes below, of any colour, turned by any angle, a little of one now and then
behind another; between them are lines that are no objects.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.evaluate.examples import Array, Example, Examples
from graphopt.named import read_options, unknown

CLASSES = ("disc", "ring", "square", "triangle", "star")
_KINDS = ("disc", "square", "triangle", "star")
PATCHES = tuple(f"{way} {kind}" for kind in _KINDS for way in ("filled", "outlined"))
# Numbers of the splits' random streams, and how many images they have if nothing is said.
SPLITS = {"train": (0, 2000), "test": (1, 500)}

_SMALLEST_SIZE, _LARGEST_SIZE = 32, 2048
_FINE = 2  # drawn so much larger and reduced, for smooth edges
_MOST_OBJECTS = 5
_EXTENT = (0.06, 0.22)  # half the extent of objects, as a share of the image
_COVERED = 0.2  # intersection over the smaller box that is still allowed
_TRIES = 20
_CONTRAST = 60  # colours of objects differ from the background's mean by so much in some channel


class Drawn(Examples):
    """Images drawn when they are asked for, and kept."""

    kind: ClassVar[str]
    splits: ClassVar[Mapping[str, tuple[int, int]]]
    usual_size: ClassVar[int]

    def __init__(self, where: str) -> None:
        split, _, rest = where.partition(",")
        if split not in self.splits:
            told = unknown("split", split, self.splits)
            raise UsageError(f"labelled data {self.kind}:{where}: {told}")
        self._stream, count = self.splits[split]
        options = read_options(rest, self.kind)
        size = options.pop("size", str(self.usual_size))
        self.size = _number(size, f"{self.kind}: size", _SMALLEST_SIZE, _LARGEST_SIZE)
        self._count = _number(options.pop("count", str(count)), f"{self.kind}: count", 1, 1_000_000)
        if options:
            told = unknown("option", next(iter(options)), ("count", "size"))
            raise UsageError(f"{self.kind}: {told}")
        self._drawn: dict[int, Example] = {}

    @abc.abstractmethod
    def _draw(self, index: int) -> Example: ...

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(f"there are {self._count} images")
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        return self._drawn[index]


class Shapes(Drawn):
    """Images of several objects, to be found."""

    task: ClassVar[str] = "detection"
    names = CLASSES
    kind: ClassVar[str] = "shapes"
    splits: ClassVar[Mapping[str, tuple[int, int]]] = SPLITS
    usual_size: ClassVar[int] = 160

    def _draw(self, index: int) -> Example:
        return draw(self._stream, index, self.size)


class Patches(Drawn):
    """Images of one object, filled or in outline, to be classified."""

    task: ClassVar[str] = "classification"
    names = PATCHES
    kind: ClassVar[str] = "patches"
    splits: ClassVar[Mapping[str, tuple[int, int]]] = {"train": (2, 4000), "test": (3, 1000)}
    usual_size: ClassVar[int] = 32

    def _draw(self, index: int) -> Example:
        return draw_patch(self._stream, index, self.size)


def draw(stream: int, index: int, size: int) -> Example:
    """Image `index` of a random stream, size x size pixels, with its labels."""
    canvas = _Canvas(np.random.default_rng((stream, index)), size)
    classes: list[int] = []
    boxes: list[Array] = []
    for _ in range(int(canvas.rng.integers(1, _MOST_OBJECTS + 1))):
        kind, outline = _placed(canvas.rng, boxes)
        if outline is None:
            continue
        _paint(canvas.brush, kind, outline * size * _FINE, canvas.colour())
        classes.append(kind)
        boxes.append(_box(outline))
    corners = np.clip(np.array(boxes).reshape(-1, 4) * size, 0, size)
    return Example(canvas.image(noise=12), np.array(classes, np.int64), corners)


def draw_patch(stream: int, index: int, size: int) -> Example:
    """Image `index` of a random stream with one object, which may be cut off a little at the edges."""
    canvas = _Canvas(np.random.default_rng((stream, index)), size)
    rng, brush = canvas.rng, canvas.brush
    kind = int(rng.integers(len(PATCHES)))
    shape, filled = _KINDS[kind // 2], kind % 2 == 0
    extent = rng.uniform(0.18, 0.42)
    middle = rng.uniform(0.35, 0.65, 2)
    points = (middle + extent * _outline(shape, rng.uniform(0, 2 * math.pi))) * size * _FINE
    colour = canvas.colour()
    flat = [tuple(p) for p in points.tolist()]
    if filled:
        brush.polygon(flat, fill=colour)
    else:
        brush.line([*flat, flat[0], flat[1]], fill=colour, width=max(2, int(0.2 * extent * size)))
    return Example(canvas.image(noise=25), np.array([kind], np.int64))


class _Canvas:
    """A background with some lines on it, _FINE times as large as the image it becomes."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        from PIL import Image, ImageDraw

        self.rng, self.size = rng, size
        ground = _background(rng, size)
        self._mean = ground.mean((0, 1))
        fine = (size * _FINE, size * _FINE)
        self._picture = Image.fromarray(ground).resize(fine, Image.Resampling.BICUBIC)
        self.brush = ImageDraw.Draw(self._picture)
        _lines(rng, self.brush, size * _FINE)

    def colour(self) -> tuple[int, ...]:
        """One that is seen on the background."""
        for _ in range(_TRIES):
            colour = self.rng.integers(0, 256, 3)
            if np.abs(colour - self._mean).max() >= _CONTRAST:
                break
        return tuple(int(c) for c in colour)

    def image(self, *, noise: float) -> Array:
        """The picture reduced, with up to so much noise."""
        from PIL import Image

        reduced = self._picture.resize((self.size, self.size), Image.Resampling.BOX)
        pixels = np.asarray(reduced, np.float32)
        noisy = pixels + self.rng.normal(0, self.rng.uniform(0, noise), pixels.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> Array:
    """Soft clouds of two colours, and now and then stripes."""
    from PIL import Image

    first, second = rng.uniform(0, 255, (2, 3))
    cells = int(rng.integers(2, 9))
    coarse = (rng.random((cells, cells)) * 255).astype(np.uint8)
    grown = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    share = np.asarray(grown, np.float32)[:, :, None] / 255
    if rng.random() < 0.4:
        y, x = np.mgrid[:size, :size] / size
        angle, count = rng.uniform(0, math.pi), rng.uniform(3, 15)
        wave = np.sin(2 * math.pi * count * (x * math.cos(angle) + y * math.sin(angle)))
        share = np.clip(share + 0.15 * wave[:, :, None], 0, 1)
    grain = rng.normal(0, rng.uniform(2, 14), (size, size, 1))
    mixed = first * share + second * (1 - share) + grain
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _lines(rng: np.random.Generator, brush: Any, size: int) -> None:
    """Strokes that look like parts of objects and are none."""
    for _ in range(int(rng.integers(0, 5))):
        ends = tuple(rng.uniform(0, size, 4).tolist())
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        brush.line(ends, fill=colour, width=int(rng.integers(1, 4)) * _FINE)


def _placed(rng: np.random.Generator, boxes: list[Array]) -> tuple[int, Array | None]:
    """A class and an outline (points, 2) in shares of the image; none where there is no room."""
    kind = int(rng.integers(len(CLASSES)))
    for _ in range(_TRIES):
        extent = math.exp(rng.uniform(*np.log(_EXTENT)))
        centre = rng.uniform(extent, 1 - extent, 2)
        outline = centre + extent * _outline(CLASSES[kind], rng.uniform(0, 2 * math.pi))
        if all(_overlap(_box(outline), other) <= _COVERED for other in boxes):
            return kind, outline
    return kind, None


def _outline(name: str, angle: float) -> Array:
    """Points on the unit circle and within, turned by an angle."""
    if name in ("disc", "ring"):
        turns, radii = np.linspace(0, 1, 48, endpoint=False), np.ones(48)
    elif name == "star":
        turns, radii = np.arange(10) / 10, np.tile([1.0, 0.45], 5)
    else:
        corners = 4 if name == "square" else 3
        turns, radii = np.arange(corners) / corners, np.ones(corners)
    at = 2 * math.pi * turns + angle
    return np.stack([radii * np.cos(at), radii * np.sin(at)], 1)


def _paint(brush: Any, kind: int, points: Array, colour: tuple[int, ...]) -> None:
    flat = [tuple(p) for p in points.tolist()]
    if CLASSES[kind] != "ring":
        brush.polygon(flat, fill=colour)
        return
    width = max(2, int(0.3 * np.ptp(points[:, 0]) / 2))
    low, high = points.min(0), points.max(0)
    brush.ellipse([*low, *high], outline=colour, width=width)


def _box(points: Array) -> Array:
    return np.concatenate([points.min(0), points.max(0)])


def _overlap(one: Array, other: Array) -> float:
    """The intersection as a share of the smaller box."""
    size = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    areas = [float(np.prod(b[2:] - b[:2])) for b in (one, other)]
    return float(np.prod(size)) / min(areas)


def _number(text: str, name: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise UsageError(f"{name}={text} is not a whole number from {least} to {most}")
    return value
