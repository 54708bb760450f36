"""Kernels that compute nothing: borders, copies, enlargement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Machine,
    Value,
    cast,
    constant,
    divide,
    kernel,
    let,
    loop,
)


@dataclass(frozen=True)
class PadPlain:
    """A plain image [C][H][W] copied to where rows have a border; one part is one row."""

    machine: Machine
    channels: int
    height: int
    width: int
    sink: Strides

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.channels * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return ("float32", self.machine.dtype)

    def build(self, name: str) -> Any:
        """The TIR function."""

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            channel, row = divide(part, self.height)
            start = let(part * self.width)
            to = let(channel * self.sink.plane + row * self.sink.row)
            with loop(0, self.width) as column:
                value = cast(source.scalar(start + column), self.machine.dtype, 1)
                sink.put_scalar(to + column, value)

        return kernel(name, self.arrays, body)


@dataclass(frozen=True)
class ClearBorder:
    """Zeros around every plane of an image; one part is one plane.

    A row of an image is followed by `gap` pixels, which are the right border of that row and the left
    border of the next. Plane 0 starts with its border.

    Attributes:
        step: elements of one pixel: the lanes of a blocked image, 1 of a plain one.
        dtype: of an element.
        value: the integer that stands for zero.
    """

    planes: int
    height: int
    width: int
    top: int
    bottom: int
    gap: int
    step: int
    dtype: str
    value: int = 0

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.planes

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: the image with its border."""
        return (self.dtype,)

    def build(self, name: str) -> Any:
        """The TIR function."""
        pitch = self.width + self.gap
        plane = (self.top + self.height + self.bottom) * pitch + self.gap
        inside = self.top * pitch + self.gap

        def body(arrays: Sequence[Array], part: Value) -> None:
            (image,) = arrays
            start = let(part * (plane * self.step))
            self._zeros(image, start, inside)
            with loop(0, self.height) as row:
                self._zeros(
                    image, let(start + (inside + row * pitch + self.width) * self.step), self.gap
                )
            if self.bottom:
                after = inside + self.height * pitch
                self._zeros(image, let(start + after * self.step), plane - after)

        return kernel(name, self.arrays, body)

    def _zeros(self, image: Array, start: Value, pixels: int) -> None:
        if not pixels:
            return
        with loop(0, pixels) as pixel:
            zero = constant(self.value, self.dtype, self.step)
            if self.step == 1:
                image.put_scalar(start + pixel, zero)
            else:
                image.put(start + pixel * self.step, zero, self.step)


@dataclass(frozen=True)
class Enlarge:
    """Nearest neighbour by whole factors: y[c, i, j] = x[c, i / f, j / g], and what follows.

    One part is one row of the result in one channel block.
    """

    machine: Machine
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int
    factors: tuple[int, int]
    expression: Expression = AS_IT_IS

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink, operands."""
        own = (self.source.dtype(self.machine), self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes, (down, across) = self.machine.lanes, self.factors

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink, *operands = arrays
            block, row = divide(part, self.height)
            above, _ = divide(row, down)
            start = let(self.source.at(block, above, lanes))
            to = let(self.sink.at(block, row, lanes))
            with loop(0, self.width // across) as column:
                at = start + column * self.source.step(lanes)
                value = let(self.source.read(source, at, lanes))
                for k in range(across):
                    place = (block, row, column * across + k)
                    made = self.expression.value(value, operands, place, self.machine)
                    place_in = to + (column * across + k) * self.sink.step(lanes)
                    self.sink.write(sink, place_in, made, lanes)

        return kernel(name, self.arrays, body)


@dataclass(frozen=True)
class CopyChannels:
    """Channels of one blocked image to other channels of another; one part is one row of a channel.

    For what no whole channel block can do: pieces that do not begin at a multiple of the lanes.
    """

    machine: Machine
    source: Strides
    sink: Strides
    first: int
    to: int
    count: int
    height: int
    width: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.count * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return (self.machine.dtype, self.machine.dtype)

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            channel, row = divide(part, self.height)
            start, to = (
                let(block * s.plane + row * s.row + inside)
                for s, (block, inside) in (
                    (self.source, divide(channel + self.first, lanes)),
                    (self.sink, divide(channel + self.to, lanes)),
                )
            )
            with loop(0, self.width) as column:
                sink.put_scalar(to + column * lanes, source.scalar(start + column * lanes))

        return kernel(name, self.arrays, body)


@dataclass(frozen=True)
class ClearChannels:
    """Zeros in some lanes of a blocked image; one part is one row of a channel.

    Lanes beyond the last channel meet weights of zero, and must be numbers for that to be nothing.
    """

    machine: Machine
    sink: Strides
    first: int
    count: int
    height: int
    width: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.count * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: sink."""
        return (self.machine.dtype,)

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            (sink,) = arrays
            channel, row = divide(part, self.height)
            block, inside = divide(channel + self.first, lanes)
            to = let(block * self.sink.plane + row * self.sink.row + inside)
            with loop(0, self.width) as column:
                sink.put_scalar(to + column * lanes, constant(0.0, self.machine.dtype, 1))

        return kernel(name, self.arrays, body)
