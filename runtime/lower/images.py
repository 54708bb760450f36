"""Where images lie: blocked by channels, inside others where that saves a copy, with borders of zeros.

An image of C x H x W is stored as [C / lanes][top + H + bottom][gap + W][lanes]: a row's right border
is the next row's left one. An image that is a piece of another along the channels (an input of a
Concat, an output of a Split) lies inside of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graphopt.runtime.kernels.grid import Grid, Half
from graphopt.runtime.kernels.movement import ClearBorder
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.lower.program import Memory, Place

# A vector of a plain image may be read past its last row, and rows are multiples of nothing.
_SLACK = 256


@dataclass
class Border:
    """Pixels of zeros an image's readers reach into."""

    top: int = 0
    bottom: int = 0
    gap: int = 0

    def __bool__(self) -> bool:
        return bool(self.top or self.bottom or self.gap)

    def cover(self, top: int, bottom: int, left: int, right: int) -> None:
        """Grows to at least so much."""
        self.top, self.bottom = max(self.top, top), max(self.bottom, bottom)
        self.gap = max(self.gap, left, right)


class Image:
    """A stored image; `lanes` is 1 for a plain one with a border, `grid` is of one of integers.

    Borders may grow until strides are asked for the first time.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        lanes: int,
        dtype: str = "float32",
        grid: Grid | None = None,
    ) -> None:
        channels, height, width = shape
        self.name, self.channels, self.lanes, self.dtype = name, channels, lanes, dtype
        self.bytes, self.grid = np.dtype(dtype).itemsize, grid
        self.height, self.width = height, width
        self._parent: Image | None = None
        self._block = 0
        self._border = Border()
        self._memory: Memory | None = None

    @property
    def blocks(self) -> int:
        """Channel blocks."""
        return -(-self.channels // self.lanes)

    def vectors(self, lanes: int) -> int:
        """Vectors of so many channels, at least one of which exists."""
        return -(-self.channels // lanes)

    @property
    def root(self) -> Image:
        """The image that owns the memory."""
        return self if self._parent is None else self._parent.root

    @property
    def is_root(self) -> bool:
        """Whether the image lies in no other."""
        return self._parent is None

    @property
    def border(self) -> Border:
        """The border of the memory it lies in."""
        return self.root._border

    @property
    def first_block(self) -> int:
        """Where in the root it begins."""
        return self._block + (0 if self._parent is None else self._parent.first_block)

    def lie_in(self, other: Image, block: int) -> None:
        """Puts the image into `other` from channel block `block` on."""
        border = self._border
        self._parent, self._block = other, block
        other.root._border.cover(border.top, border.bottom, border.gap, border.gap)

    @property
    def strides(self) -> Strides:
        """Elements from row to row and from block to block."""
        border = self.border
        pitch = self.width + border.gap
        rows = border.top + self.height + border.bottom
        plane = (rows * pitch + border.gap) * self.lanes
        return Strides(pitch * self.lanes, plane, self.lanes if self.grid else 0, self.grid)

    @property
    def wide(self) -> Strides:
        """The strides for a kernel that computes in float32, whatever is stored."""
        if self.dtype != "float16":
            return self.strides
        return replace(self.strides, pixel=self.lanes, grid=Half())

    @property
    def memory(self) -> Memory:
        """The memory of the root, whose border is final from now on."""
        root = self.root
        if root._memory is None:
            size = root.blocks * root.strides.plane * self.bytes
            root._memory = Memory(root.name, size + _SLACK)
        return root._memory

    @property
    def place(self) -> Place:
        """Its first pixel in its first channel block."""
        border, strides = self.border, self.strides
        inside = border.top * strides.row + border.gap * self.lanes
        return Place(self.memory, (self.first_block * strides.plane + inside) * self.bytes)

    def border_kernel(self) -> ClearBorder:
        """What clears the border of the whole root."""
        root, border = self.root, self.border
        return ClearBorder(
            root.blocks,
            root.height,
            root.width,
            border.top,
            border.bottom,
            border.gap,
            root.lanes,
            root.dtype,
            root.grid.zero if root.grid else 0,
        )
