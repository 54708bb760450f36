"""Depthwise convolution of 8-bit integers: products in 16 bits, sums in 32.

    y[c] = M[c] (b[c] + sum over u, v of w[c, u, v] q[c, i s + u d - p, j s + v d - p])

Where pixels are signed and weights leave out -128, two products fit 16 bits together, and half as many
additions are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.runtime.kernels.conv import Window, tiled_kernel
from graphopt.runtime.kernels.conv_int8 import BLOCK
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    cast,
    joined,
    let,
    when,
)


@dataclass(frozen=True)
class IntegerDepthwise:
    """One filter per channel. One part is one row of one channel block.

    Attributes:
        blocks: vectors of `lanes` channels of the result.
        columns: pixels of one register tile.
        lanes: channels that are stored at once.
        paired: whether two products fit 16 bits together.
    """

    machine: Machine
    window: Window
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int
    columns: int
    lanes: int
    paired: bool
    expression: Expression = AS_IT_IS

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return -(-self.blocks * self.lanes // BLOCK) * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, weights, bias, M, sink, operands."""
        last = replace(self.machine, dtype="float32", lanes=self.lanes)
        own = (self.source.dtype(last), "int8", "int32", "float32", self.sink.dtype(last))
        return (*own, *self.expression.dtypes(last))

    def build(self, name: str) -> Any:
        """The TIR function."""

        size = (self.height, self.width)
        return tiled_kernel(name, self.arrays, size, self.columns, self._tile)

    def _tile(self, arrays: Sequence[Array], at: tuple[Index, Index, Index], columns: int) -> None:
        source, weight, bias, *last = arrays
        block, row, column = at
        window, (high, wide) = self.window, self.window.kernel
        sums = Registers(columns, BLOCK, "int32")
        start = let(bias.vector(block * BLOCK, BLOCK))
        for k in range(columns):
            sums[k] = start
        corner = let(
            block * self.source.plane
            + (row * window.stride[0] - window.pads[0]) * self.source.row
            + (column * window.stride[1] - window.pads[1]) * BLOCK
        )

        def product(tap: int, k: int) -> Value:
            u, v = divmod(tap, wide)
            place = (k * window.stride[1] + v * window.dilation[1]) * BLOCK
            x = source.vector(corner + u * window.dilation[0] * self.source.row + place, BLOCK)
            w = weight.vector((block * (high * wide) + tap) * BLOCK, BLOCK)
            return cast(x, "int16", BLOCK) * cast(w, "int16", BLOCK)

        taps = range(high * wide)
        step = 2 if self.paired else 1
        for tap in taps[::step]:
            for k in range(columns):
                total = product(tap, k)
                if self.paired and tap + 1 < len(taps):
                    total = total + product(tap + 1, k)
                sums[k] += cast(total, "int32", BLOCK)
        self._store(last, at, [sums[k] for k in range(columns)])

    def _store(
        self, arrays: Sequence[Array], at: tuple[Index, Index, Index], made: list[Value]
    ) -> None:
        scale, sink, *operands = arrays
        (block, row, column), lanes = at, self.lanes
        last = replace(self.machine, dtype="float32", lanes=lanes)
        count = BLOCK // lanes
        for e in range(count):
            piece = let(block * count + e)
            with when(True if self.blocks % count == 0 else piece < self.blocks):
                factors = let(scale.vector(piece * lanes, lanes))
                to = let(self.sink.at(piece, row, lanes) + column * self.sink.step(lanes))
                for k, total in enumerate(made):
                    value = cast(joined([total], e * lanes, lanes), "float32", lanes) * factors
                    place = (piece, row, column + k)
                    value = self.expression.value(let(value), operands, place, last)
                    self.sink.write(sink, to + k * self.sink.step(lanes), value, lanes)
