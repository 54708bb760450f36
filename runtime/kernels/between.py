"""Linear interpolation between the pixels of a blocked image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Value,
    divide,
    kernel,
    let,
    loop,
    repeat,
)


@dataclass(frozen=True)
class Interpolate:
    """y[c, i, j] = (1-s) ((1-t) x[a, e] + t x[a, f]) + s ((1-t) x[b, e] + t x[b, f]), and what follows.

    Rows a, b and the share s of b are looked up for every row i of the result, columns e, f and the
    share t for every column j: first all rows, then all columns. One part is one row of the result in
    one channel block.
    """

    machine: Machine
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int
    expression: Expression = AS_IT_IS

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, neighbours, shares, sink, operands."""
        source, sink = self.source.dtype(self.machine), self.sink.dtype(self.machine)
        own = (source, "int32", self.machine.dtype, sink)
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, neighbours, shares, sink, *operands = arrays
            block, row = divide(part, self.height)
            lines = [
                let(self.source.at(block, neighbours.scalar(row * 2 + k), lanes)) for k in (0, 1)
            ]
            down = let(repeat(shares.scalar(row), lanes))
            to = let(self.sink.at(block, row, lanes))
            with loop(0, self.width) as column:
                index = self.height + column
                right = let(repeat(shares.scalar(index), lanes))
                steps = [
                    let(neighbours.scalar(index * 2 + k) * self.source.step(lanes)) for k in (0, 1)
                ]

                def between(line: Index) -> Value:
                    pair = [let(self.source.read(source, line + s, lanes)) for s in steps]
                    return let(pair[0] + (pair[1] - pair[0]) * right)

                above, below = (between(line) for line in lines)
                value = let(above + (below - above) * down)
                made = self.expression.value(value, operands, (block, row, column), self.machine)
                self.sink.write(sink, to + column * self.sink.step(lanes), made, lanes)

        return kernel(name, self.arrays, body)
