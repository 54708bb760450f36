"""Direct convolution: an implicit matrix product with a register tile of columns by channels.

    y[o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] x[c, i s + u d - p, j s + v d - p]

Images are blocked: lanes channels of one pixel lie together, [C / lanes][H][W][lanes], and have a
border of zeros as wide as their readers reach. One part computes one row of `vectors * lanes`
output channels, `columns` pixels at a time; every accumulator stays in a register over the whole
sum. Weights are packed as [tile][c / lanes][u][v][lane of c][vectors * lanes].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.runtime.kernels.accumulate import accumulate
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    divide,
    kernel,
    lane,
    let,
    loop,
    repeat,
    when,
)

Place: TypeAlias = "tuple[Index, Index, Index]"  # channel block (or tile), row, column


@dataclass(frozen=True)
class Window:
    """Kernel, stride, dilation and the padding at the top and left: (vertical, horizontal) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    def reach(self, columns: int) -> int:
        """How many neighbouring columns so many outputs read."""
        return (columns - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1


@dataclass(frozen=True)
class Spread:
    """Where results stand in an image of which they are but some: every how many pixels, from which on.

    Attributes:
        step: (vertical, horizontal).
        first: (row, column) of the first result.
    """

    step: tuple[int, int] = (1, 1)
    first: tuple[int, int] = (0, 0)

    def at(self, place: Place) -> Place:
        """A result's place in the image."""
        block, row, column = place
        (down, right), (top, left) = self.step, self.first
        return block, row * down + top, column * right + left


EVERY_PIXEL = Spread()


def tiles(width: int, columns: int) -> Iterator[tuple[int, int, int]]:
    """(first column, tiles, columns of each) that cover a row with tiles as equal as can be."""
    count = -(-width // columns)
    each = -(-width // count)
    full, rest = divmod(width, each)
    yield 0, full, each
    if rest:
        yield full * each, 1, rest


def tiled_kernel(
    name: str,
    arrays: Sequence[str],
    size: tuple[int, int],
    columns: int,
    tile: Callable[[Sequence[Array], Place, int], None],
) -> Any:
    """A kernel whose parts are rows, computed in tiles: tile(arrays, first place, columns)."""
    height, width = size

    def body(given: Sequence[Array], part: Value) -> None:
        block, row = divide(part, height)
        for first, count, each in tiles(width, columns):
            with loop(0, count) as index:
                tile(given, (block, row, let(index * each + first)), each)

    return kernel(name, arrays, body)


@dataclass(frozen=True)
class DirectConv:
    """A convolution of blocked images, or of a plain one with few channels (`plain`).

    Attributes:
        depth: channel blocks that are summed over (of one group); channels when `plain`.
        blocks: channel blocks of the result.
        vectors: channel blocks of one register tile.
        columns: pixels of one register tile.
        plain: the source is [C][H][W].
        height: of what this kernel computes, as `width`.
        spread: where its results stand in the sink.
    """

    machine: Machine
    window: Window
    source: Strides
    sink: Strides
    depth: int
    blocks: int
    height: int
    width: int
    vectors: int
    columns: int
    groups: int = 1
    plain: bool = False
    expression: Expression = AS_IT_IS
    spread: Spread = EVERY_PIXEL

    @property
    def tile_count(self) -> int:
        """Register tiles along the output channels."""
        return -(-self.blocks // self.vectors)

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.tile_count * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, weights, bias, sink, operands."""
        own = (*(self.machine.dtype,) * 3, self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""

        size = (self.height, self.width)
        return tiled_kernel(name, self.arrays, size, self.columns, self._tile)

    def _tile(self, arrays: Sequence[Array], at: tuple[Index, Index, Index], columns: int) -> None:
        source, weight, bias, sink, *operands = arrays
        lanes, vectors = self.machine.lanes, self.vectors
        tile, row, column = at
        sums = Registers(columns * vectors, lanes, self.machine.dtype)
        starts = [let(bias.vector((tile * vectors + v) * lanes, lanes)) for v in range(vectors)]
        for i in range(columns * vectors):
            sums[i] = starts[i % vectors]
        if self.plain:
            self._sum_plain(source, weight, at, sums)
        else:
            self._sum_blocked(source, weight, at, sums)
        for v in range(vectors):
            block = let(tile * vectors + v)
            exists = True if self.blocks % vectors == 0 else block < self.blocks
            with when(exists):
                for k in range(columns):
                    place = self.spread.at((block, row, column + k))
                    value = self.expression.value(
                        sums[k * vectors + v], operands, place, self.machine
                    )
                    to = self.sink.at(block, place[1], lanes) + place[2] * self.sink.step(lanes)
                    self.sink.write(sink, to, value, lanes)

    def _sum_blocked(
        self, source: Array, weight: Array, at: tuple[Index, Index, Index], sums: Registers
    ) -> None:
        lanes, vectors, window = self.machine.lanes, self.vectors, self.window
        tile, row, column = at
        (high, wide), (down, right) = window.kernel, window.stride
        corner = (
            self._group(tile) * (self.depth * self.source.plane)
            + (row * down - window.pads[0]) * self.source.row
            + (column * right - window.pads[1]) * lanes
        )
        taps = high * wide * lanes * vectors * lanes
        pixels = [k * right * lanes for k in range(len(sums) // vectors)]
        with loop(0, self.depth) as c, loop(0, high) as u, loop(0, wide) as v:
            at_pixel = let(
                corner
                + c * self.source.plane
                + u * (window.dilation[0] * self.source.row)
                + v * (window.dilation[1] * lanes)
            )
            at_weight = let(
                (tile * self.depth + c) * taps + (u * wide + v) * (lanes * vectors * lanes)
            )
            accumulate(self.machine, (source, at_pixel, pixels), (weight, at_weight), sums)

    def _sum_plain(
        self, source: Array, weight: Array, at: tuple[Index, Index, Index], sums: Registers
    ) -> None:
        lanes, vectors, window = self.machine.lanes, self.vectors, self.window
        tile, row, column = at
        (high, wide), (down, right) = window.kernel, window.stride
        columns = len(sums) // vectors
        corner = (row * down - window.pads[0]) * self.source.row + column * right - window.pads[1]
        with loop(0, self.depth) as c, loop(0, high) as u:
            start = let(corner + c * self.source.plane + u * window.dilation[0] * self.source.row)
            pixel = self._plain_pixels(source, start, window.reach(columns))
            at_weight = let(((tile * self.depth + c) * high + u) * (wide * vectors * lanes))
            for v in range(wide):
                ws = [
                    let(weight.vector(at_weight + (v * vectors + i) * lanes, lanes))
                    for i in range(vectors)
                ]
                for k in range(columns):
                    value = pixel(k * right + v * window.dilation[1])
                    for i in range(vectors):
                        sums[k * vectors + i] += value * ws[i]

    def _plain_pixels(self, source: Array, start: Index, count: int) -> Any:
        """A function from a column to its value in every lane."""
        lanes = self.machine.lanes
        if not self.machine.lane_products:
            return lambda k: repeat(source.scalar(start + k), lanes)
        row = [let(source.vector(start + i * lanes, lanes)) for i in range(-(-count // lanes))]
        return lambda k: repeat(lane(row[k // lanes], k % lanes), lanes)

    def _group(self, tile: Index) -> Index:
        return divide(tile, self.tile_count // self.groups)[0] if self.groups > 1 else 0


@dataclass(frozen=True)
class DepthwiseConv:
    """One filter per channel: y[c, i, j] = b[c] + sum of w[c, u, v] x[c, i s + u d - p, ...].

    One part is one row of one channel block. Weights are packed as [c / lanes][u][v][lanes].
    """

    machine: Machine
    window: Window
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int
    columns: int
    expression: Expression = AS_IT_IS
    spread: Spread = EVERY_PIXEL

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, weights, bias, sink, operands."""
        own = (*(self.machine.dtype,) * 3, self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""

        size = (self.height, self.width)
        return tiled_kernel(name, self.arrays, size, self.columns, self._tile)

    def _tile(self, arrays: Sequence[Array], at: tuple[Index, Index, Index], columns: int) -> None:
        source, weight, bias, sink, *operands = arrays
        lanes, window = self.machine.lanes, self.window
        block, row, column = at
        (high, wide), (down, right) = window.kernel, window.stride
        sums = Registers(columns, lanes, self.machine.dtype)
        start = let(bias.vector(block * lanes, lanes))
        for k in range(columns):
            sums[k] = start
        corner = let(
            block * self.source.plane
            + (row * down - window.pads[0]) * self.source.row
            + (column * right - window.pads[1]) * lanes
        )
        for u in range(high):
            line = corner + u * window.dilation[0] * self.source.row
            used = sorted(
                {k * right + v * window.dilation[1] for k in range(columns) for v in range(wide)}
            )
            values = {i: let(source.vector(line + i * lanes, lanes)) for i in used}
            for v in range(wide):
                w = let(weight.vector((block * (high * wide) + u * wide + v) * lanes, lanes))
                for k in range(columns):
                    sums[k] += values[k * right + v * window.dilation[1]] * w
        _, line, first = self.spread.at(at)
        step, apart = self.sink.step(lanes), self.spread.step[1]
        to = let(self.sink.at(block, line, lanes) + first * step)
        for k in range(columns):
            place = (block, line, first + k * apart)
            value = self.expression.value(sums[k], operands, place, self.machine)
            self.sink.write(sink, to + k * apart * step, value, lanes)
