"""Winograd convolution F(m x m, 3 x 3): fewer multiplications for 3x3 filters of stride 1.

    Y = A^T [ sum over c of (G g_c G^T) * (B^T d_c B) ] A          (Lavin and Gray, 2016)

d is a tile of (m + 2)^2 input pixels, Y one of m^2 results; * is elementwise, so the sum over
channels is (m + 2)^2 matrix products. 9 m^2 products become (m + 2)^2: a quarter for m = 4. A^T, G
and B^T come from the Cook-Toom construction in exact fractions.

Work goes by strips of tiles that a second-level cache holds. For each, two kernels run:
`WinogradInput` writes B^T d B of all channels, then `WinogradOutput` makes products, the output
transform and what follows, so that transformed weights are read once for a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.runtime.kernels.accumulate import accumulate
from graphopt.runtime.kernels.cook_toom import matrices, transformed
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    cast,
    constant,
    divide,
    kernel,
    let,
    loop,
    when,
)


@dataclass(frozen=True)
class Tiling:
    """How an image of results is cut: tiles of m x m, `strip` of them at a time."""

    m: int
    height: int
    width: int
    strip: int

    @property
    def side(self) -> int:
        """Pixels of one side of an input tile."""
        return self.m + 2

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.m)

    @property
    def count(self) -> int:
        """Tiles in all."""
        return self.across * -(-self.height // self.m)

    @property
    def strips(self) -> int:
        """Strips in all; the last may be shorter."""
        return -(-self.count // self.strip)


@dataclass(frozen=True)
class WinogradWeight:
    """U = G g G^T for all filters, once, when a network is loaded: a file holds the filters.

    g is packed as for a direct convolution, [tile][C / lanes][3][3][lane of C][vectors * lanes], U as
    `WinogradOutput` takes it. One part is one channel block of one tile.
    """

    machine: Machine
    m: int
    depth: int
    tile_count: int
    vectors: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.tile_count * self.depth

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: g, U."""
        return (self.machine.dtype, self.machine.dtype)

    @property
    def size(self) -> int:
        """Elements of U."""
        return self.parts * (self.m + 2) ** 2 * self.machine.lanes**2 * self.vectors

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes, side, rows = self.machine.lanes, self.m + 2, matrices(self.m)[1]
        wide = replace(self.machine, dtype="float32")  # rounded once, at the end
        block = lanes * self.vectors * lanes  # elements of one tap

        def body(arrays: Sequence[Array], part: Value) -> None:
            given, made = arrays
            tile, c = divide(part, self.depth)
            with loop(0, lanes * self.vectors) as vector:
                start = let(part * (9 * block) + vector * lanes)
                half = []  # G g, by column
                for v in range(3):
                    taps = [
                        let(
                            cast(given.vector(start + (u * 3 + v) * block, lanes), "float32", lanes)
                        )
                        for u in range(3)
                    ]
                    half.append(transformed(rows, taps, wide))
                to = let((tile * side**2 * self.depth + c) * block + vector * lanes)
                for i in range(side):
                    line = [column[i] for column in half]
                    for j, value in enumerate(transformed(rows, line, wide)):
                        at = to + (i * side + j) * self.depth * block
                        made.put(at, cast(value, self.machine.dtype, lanes), lanes)

        return kernel(name, self.arrays, body)


@dataclass(frozen=True)
class WinogradInput:
    """D[e, c, t, :] = (B^T d B)[e] for a strip of tiles; one part is one channel block of a strip.

    The source has a border of zeros as wide as the last tile reaches. D is
    [(m + 2)^2][C / lanes][strip][lanes].
    """

    machine: Machine
    tiling: Tiling
    source: Strides
    pads: tuple[int, int]
    depth: int

    @property
    def parts(self) -> int:
        """How many parts one strip has."""
        return self.depth

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, D."""
        return (self.machine.dtype, self.machine.dtype)

    @property
    def scratch(self) -> int:
        """Elements of D."""
        return self.tiling.side**2 * self.depth * self.tiling.strip * self.machine.lanes

    def build(self, name: str) -> Any:
        """The TIR function."""
        tiling = self.tiling

        def body(arrays: Sequence[Array], part: Value) -> None:
            strip, block = divide(part, self.depth)
            with loop(0, tiling.strip) as index:
                tile = let(strip * tiling.strip + index)
                exists = True if tiling.count % tiling.strip == 0 else tile < tiling.count
                with when(exists):
                    self._tile(arrays, block, index, tile)

        return kernel(name, self.arrays, body)

    def _tile(self, arrays: Sequence[Array], block: Index, index: Index, tile: Index) -> None:
        source, made = arrays
        lanes, tiling, side = self.machine.lanes, self.tiling, self.tiling.side
        down, across = divide(tile, tiling.across)
        corner = let(
            block * self.source.plane
            + (down * tiling.m - self.pads[0]) * self.source.row
            + (across * tiling.m - self.pads[1]) * lanes
        )
        rows = matrices(tiling.m)[2]
        half = []  # B^T d, by column
        for j in range(side):
            column = [
                let(source.vector(corner + i * self.source.row + j * lanes, lanes))
                for i in range(side)
            ]
            half.append(transformed(rows, column, self.machine))
        step = self.depth * tiling.strip * lanes
        to = let((block * tiling.strip + index) * lanes)
        for i in range(side):
            line = [column[i] for column in half]
            for j, value in enumerate(transformed(rows, line, self.machine)):
                made.put(to + (i * side + j) * step, value, lanes)


@dataclass(frozen=True)
class WinogradOutput:
    """Y = A^T (sum over c of U * D) A and what follows; one part is one channel tile of a strip.

    Weights U are packed as [tile][(m + 2)^2][c / lanes][lane of c][vectors * lanes]. Each thread has
    an array M of its own for the products of one part, [strip][(m + 2)^2][vectors][lanes].

    Attributes:
        vectors: channel blocks of one register tile.
        columns: tiles of one register tile; the strip is a multiple.
    """

    machine: Machine
    tiling: Tiling
    sink: Strides
    depth: int
    blocks: int
    vectors: int
    columns: int
    expression: Expression = AS_IT_IS

    @property
    def tile_count(self) -> int:
        """Register tiles along the output channels."""
        return -(-self.blocks // self.vectors)

    @property
    def parts(self) -> int:
        """How many parts one strip has."""
        return self.tile_count

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: D, weights, bias, M, sink, operands."""
        own = (*(self.machine.dtype,) * 4, self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    @property
    def scratch(self) -> int:
        """Elements of M."""
        return self.tiling.strip * self.tiling.side**2 * self.vectors * self.machine.lanes

    def build(self, name: str) -> Any:
        """The TIR function."""
        tiling, elements = self.tiling, self.tiling.side**2

        def body(arrays: Sequence[Array], part: Value) -> None:
            given, weight, bias, products, sink, *operands = arrays
            strip, channel_tile = divide(part, self.tile_count)
            with loop(0, elements) as e, loop(0, tiling.strip // self.columns) as group:
                self._products(given, weight, products, (channel_tile, e, group))
            with loop(0, tiling.strip) as index:
                tile = let(strip * tiling.strip + index)
                exists = True if tiling.count % tiling.strip == 0 else tile < tiling.count
                with when(exists):
                    self._results((bias, products, sink), operands, (channel_tile, index, tile))

        return kernel(name, self.arrays, body)

    def _products(
        self, given: Array, weight: Array, products: Array, at: tuple[Index, Index, Index]
    ) -> None:
        lanes, vectors, columns = self.machine.lanes, self.vectors, self.columns
        channel_tile, e, group = at
        elements, strip = self.tiling.side**2, self.tiling.strip
        sums = Registers(columns * vectors, lanes, self.machine.dtype)
        for i in range(len(sums)):
            sums[i] = constant(0.0, self.machine.dtype, lanes)
        offsets = [k * lanes for k in range(columns)]
        start = let(e * (self.depth * strip * lanes) + group * (columns * lanes))
        weights = let((channel_tile * elements + e) * (self.depth * lanes * vectors * lanes))
        with loop(0, self.depth) as c:
            at_tile = let(start + c * (strip * lanes))
            at_weight = let(weights + c * (lanes * vectors * lanes))
            accumulate(self.machine, (given, at_tile, offsets), (weight, at_weight), sums)
        to = let((group * columns * elements + e) * (vectors * lanes))
        for k in range(columns):
            for v in range(vectors):
                place = to + (k * elements * vectors + v) * lanes
                products.put(place, sums[k * vectors + v], lanes)

    def _results(
        self,
        arrays: tuple[Array, Array, Array],
        operands: Sequence[Array],
        at: tuple[Index, Index, Index],
    ) -> None:
        bias, products, sink = arrays
        lanes, tiling, side = self.machine.lanes, self.tiling, self.tiling.side
        channel_tile, index, tile = at
        down, across = divide(tile, tiling.across)
        rows = matrices(tiling.m)[0]
        for v in range(self.vectors):
            block = let(channel_tile * self.vectors + v)
            exists = True if self.blocks % self.vectors == 0 else block < self.blocks
            with when(exists):
                start = let((index * side**2 * self.vectors + v) * lanes)
                half = []  # A^T M, by column
                for j in range(side):
                    column = [
                        let(products.vector(start + (i * side + j) * self.vectors * lanes, lanes))
                        for i in range(side)
                    ]
                    half.append(transformed(rows, column, self.machine))
                offset = let(bias.vector(block * lanes, lanes))
                for i in range(tiling.m):
                    line = [column[i] for column in half]
                    for j, value in enumerate(transformed(rows, line, self.machine)):
                        place = (block, let(down * tiling.m + i), let(across * tiling.m + j))
                        with when(self._inside(place, i, j)):
                            self._store(sink, operands, place, value + offset)

    def _inside(self, place: tuple[Index, Index, Index], i: int, j: int) -> Value:
        """Whether a result of the tile is one of the image."""
        from tvm import tirx

        tiling = self.tiling
        checks = []
        if tiling.height % tiling.m and i >= tiling.height % tiling.m:
            checks.append(place[1] < tiling.height)
        if tiling.width % tiling.m and j >= tiling.width % tiling.m:
            checks.append(place[2] < tiling.width)
        return tirx.all(*checks) if checks else True

    def _store(
        self,
        sink: Array,
        operands: Sequence[Array],
        place: tuple[Index, Index, Index],
        value: Value,
    ) -> None:
        lanes = self.machine.lanes
        block, row, column = place
        value = self.expression.value(let(value), operands, place, self.machine)
        to = self.sink.at(block, row, lanes) + column * self.sink.step(lanes)
        self.sink.write(sink, to, value, lanes)
