"""The product of two matrices that are both computed, row by row as they lie: attention's.

    y[n, r, m] = sum over k of a[n, r, k] b[n, k, m]

A register tile is some rows by some vectors of columns. Where the last columns fill no whole vector, the
last tile begins early and computes a few of them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.accumulate import accumulate
from graphopt.runtime.kernels.conv import tiles
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    constant,
    divide,
    kernel,
    let,
    loop,
    repeat,
    when,
)


@dataclass(frozen=True)
class RowsProduct:
    """A product for every matrix of a batch; one part is one tile of rows of one of them.

    Attributes:
        rows, depth, columns: R, K, M; `columns` is at least one vector.
        batch: how many matrices.
        steps: from one matrix to the next, of a and of b; 0 where all have the same.
        vectors: of columns in a register tile.
        high: rows of a register tile.
    """

    machine: Machine
    rows: int
    depth: int
    columns: int
    batch: int
    steps: tuple[int, int]
    vectors: int
    high: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.batch * self._tiles_of_rows

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: a, b, y."""
        return (self.machine.dtype,) * 3

    @property
    def _tiles_of_rows(self) -> int:
        return sum(count for _, count, _ in tiles(self.rows, self.high))

    def build(self, name: str) -> Any:
        """The TIR function."""

        def body(arrays: Sequence[Array], part: Value) -> None:
            number, tile = divide(part, self._tiles_of_rows)
            before = 0
            for first, count, each in tiles(self.rows, self.high):
                holds = before <= tile if before else tile < count
                with when(True if count == self._tiles_of_rows else holds):
                    row = let(tile * each + (first - before * each))
                    self._rows(arrays, number, row, each)
                before += count

        return kernel(name, self.arrays, body)

    def _rows(self, arrays: Sequence[Array], number: Index, row: Index, each: int) -> None:
        start = let(number * self.steps[0] + row * self.depth)
        to = let(number * (self.rows * self.columns) + row * self.columns)
        for first, count, vectors in self.column_tiles():
            with loop(0, count) as index:
                column = let(first + index * (vectors * self.machine.lanes))
                begin = let(number * self.steps[1] + column)
                self._tile(arrays, (start, begin, let(to + column)), each, vectors)

    def column_tiles(self) -> Iterator[tuple[int, int, int]]:
        """(first column, tiles, vectors of each)."""
        lanes = self.machine.lanes
        wide = self.vectors * lanes
        full, rest = divmod(self.columns, wide)
        if full:
            yield 0, full, self.vectors
        if rest:
            vectors = min(-(-rest // lanes), self.columns // lanes)
            # One that would begin before the first column leaves the columns before it to another.
            if self.columns - vectors * lanes > full * wide:
                yield full * wide, 1, vectors
                vectors = 1
            yield self.columns - vectors * lanes, 1, vectors

    def _tile(
        self, arrays: Sequence[Array], at: tuple[Index, Index, Index], high: int, vectors: int
    ) -> None:
        (a, b, sink), (start, begin, to), lanes = arrays, at, self.machine.lanes
        sums = Registers(high * vectors, lanes, self.machine.dtype)
        for i in range(len(sums)):
            sums[i] = constant(0.0, self.machine.dtype, lanes)
        offsets = [k * self.depth for k in range(high)]
        whole, rest = divmod(self.depth, lanes)
        if whole:
            with loop(0, whole) as block:
                weight = b, let(begin + block * (lanes * self.columns))
                given = a, let(start + block * lanes), offsets
                accumulate(self.machine, given, weight, sums, self.columns)
        if rest:
            with loop(whole * lanes, self.depth) as k:
                ws = [b.vector(begin + k * self.columns + v * lanes, lanes) for v in range(vectors)]
                for i, offset in enumerate(offsets):
                    value = let(repeat(a.scalar(start + k + offset), lanes))
                    for v in range(vectors):
                        sums[i * vectors + v] += value * ws[v]
        for i in range(high):
            for v in range(vectors):
                sink.put(to + i * self.columns + v * lanes, sums[i * vectors + v], lanes)
