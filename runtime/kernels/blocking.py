"""Between plain images [C][H][W] of float32 and blocked ones: squares of lanes x lanes turned over.

A square is loaded as rows of pixels of one channel and stored as channels of one pixel, or the other
way round. Turning takes log2(lanes) rounds of interleaving two vectors, and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Value,
    cast,
    constant,
    divide,
    interleaved,
    kernel,
    let,
    loop,
    when,
)


def turned(square: Sequence[Value]) -> list[Value]:
    """The transpose of as many vectors as each has lanes (a power of two).

    Round by round, vector i is interleaved with vector i + n / 2.
    """
    vectors, half = list(square), len(square) // 2
    for _ in range(half.bit_length()):
        vectors = [
            let(v)
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
            for v in interleaved(a, b, len(square))
        ]
    return vectors


@dataclass(frozen=True)
class Turning:
    """Between a plain image and a blocked one; one part is one row of a channel block."""

    machine: Machine
    channels: int
    height: int
    width: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return -(-self.channels // self.machine.lanes) * self.height


@dataclass(frozen=True)
class Block(Turning):
    """Plain to blocked, rounded where the sink is of integers; lanes beyond C are zero.

    One part is one row of a channel block.
    """

    sink: Strides

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return ("float32", self.sink.dtype(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes
        whole, rest = divmod(self.channels, lanes)

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            block, row = divide(part, self.height)
            start = let(block * (lanes * self.height * self.width) + row * self.width)
            to = let(self.sink.at(block, row, lanes))
            if whole:
                with when(block < whole if rest else True):
                    self._row(source, sink, start, to, lanes)
            if rest:
                with when(block >= whole):
                    self._row(source, sink, start, to, rest)

        return kernel(name, self.arrays, body)

    def _row(self, source: Array, sink: Array, start: Index, to: Index, channels: int) -> None:
        lanes, size = self.machine.lanes, self.height * self.width
        step = self.sink.step(lanes)

        def square(first: Index) -> None:
            rows = [
                let(source.vector(start + c * size + first, lanes))
                if c < channels
                else constant(0.0, "float32", lanes)
                for c in range(lanes)
            ]
            for k, pixel in enumerate(turned(rows)):
                sink.put(to + (first + k) * step, self._stored(pixel, lanes), lanes)

        def pixel(column: Index) -> None:
            for c in range(lanes):
                value = constant(0.0, "float32", 1)
                if c < channels:
                    value = source.scalar(start + c * size + column)
                sink.put_scalar(to + column * step + c, self._stored(value, 1))

        _squares(self.width, lanes, square, pixel)

    def _stored(self, value: Value, lanes: int) -> Value:
        grid = self.sink.grid
        return grid.written(value, lanes) if grid else cast(value, self.machine.dtype, lanes)


@dataclass(frozen=True)
class Unblock(Turning):
    """Blocked to plain. One part is one row of a channel block."""

    source: Strides

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return (self.machine.dtype, "float32")

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes
        whole, rest = divmod(self.channels, lanes)

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            block, row = divide(part, self.height)
            start = let(block * self.source.plane + row * self.source.row)
            to = let(block * (lanes * self.height * self.width) + row * self.width)
            if whole:
                with when(block < whole if rest else True):
                    self._row(source, sink, start, to, lanes)
            if rest:
                with when(block >= whole):
                    self._row(source, sink, start, to, rest)

        return kernel(name, self.arrays, body)

    def _row(self, source: Array, sink: Array, start: Index, to: Index, channels: int) -> None:
        lanes, size = self.machine.lanes, self.height * self.width

        def square(first: Index) -> None:
            pixels = [
                let(cast(source.vector(start + (first + k) * lanes, lanes), "float32", lanes))
                for k in range(lanes)
            ]
            for c, line in enumerate(turned(pixels)[:channels]):
                sink.put(to + c * size + first, line, lanes)

        def pixel(column: Index) -> None:
            for c in range(channels):
                value = cast(source.scalar(start + column * lanes + c), "float32", 1)
                sink.put_scalar(to + c * size + column, value)

        _squares(self.width, lanes, square, pixel)


def _squares(
    width: int, lanes: int, square: Callable[[Index], None], pixel: Callable[[Index], None]
) -> None:
    """Covers a row with squares, and pixels where no square fits."""
    if width >= lanes:
        with loop(0, width // lanes) as index:
            square(let(index * lanes))
    if width % lanes:
        with loop(width // lanes * lanes, width) as column:
            pixel(column)
