"""Images of a GPU: blocks of four channels, without borders, inside others where that saves a copy."""

from __future__ import annotations

from graphopt.runtime.gpu.simple import Shape
from graphopt.runtime.lower.program import Memory, Place


class GpuImage:
    """A stored image. A piece of another along the channels may lie in its place there."""

    def __init__(self, name: str, shape: tuple[int, int, int], width: int) -> None:
        """An image of C x H x W elements of `width` bytes."""
        self.name, self.shape, self._width = name, Shape(*shape), width
        self._parent: GpuImage | None = None
        self._block = 0
        self._memory: Memory | None = None

    @property
    def is_root(self) -> bool:
        """Whether the image lies in no other."""
        return self._parent is None

    def lies_in(self, other: GpuImage) -> bool:
        """Whether the image is part of `other`, or `other` itself."""
        return self is other or (self._parent is not None and self._parent.lies_in(other))

    def lie_in(self, other: GpuImage, block: int) -> None:
        """Puts the image into `other` from channel block `block` on."""
        self._parent, self._block = other, block

    @property
    def place(self) -> Place:
        """Its first pixel; where it lies is final from now on."""
        if self._parent is not None:
            outer = self._parent.place
            return Place(outer.of, outer.offset + self._block * self.shape.pixels * 4 * self._width)
        if self._memory is None:
            self._memory = Memory(self.name, self.shape.elements * self._width)
        return Place(self._memory)
