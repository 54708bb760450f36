"""y[c, i, j] = e^(x[c, i, j] - m) / sum over d of e^(x[d, i, j] - m), m = max over d of x[d, i, j]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from graphopt.runtime.kernels.formulas import LOWEST, Numbers, exp
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.rows_softmax import lanes_of
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    kernel,
    let,
    loop,
    repeat,
)


@dataclass(frozen=True)
class ChannelSoftmax:
    """A softmax over the channels of every pixel of a blocked image; one part is one row.

    What lanes beyond the last channel hold is not counted, and stays a number: what is raised is at
    most 0 there too.
    """

    machine: Machine
    source: Strides
    sink: Strides
    channels: int
    height: int
    width: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return (self.source.dtype(self.machine), self.sink.dtype(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""

        def body(arrays: Sequence[Array], row: Value) -> None:
            with loop(0, self.width) as column:
                self._pixel(arrays, row, column)

        return kernel(name, self.arrays, body)

    def _pixel(self, arrays: Sequence[Array], row: Index, column: Index) -> None:
        source, sink = arrays
        lanes = self.machine.lanes
        full, rest = divmod(self.channels, lanes)
        one, many = Numbers("float32", 1), Numbers("float32", lanes)

        def read(block: Index) -> Value:
            at = self.source.at(block, row, lanes) + column * self.source.step(lanes)
            return self.source.read(source, at, lanes)

        def place(block: Index) -> Index:
            return let(self.sink.at(block, row, lanes) + column * self.sink.step(lanes))

        def raised(block: Index) -> Value:
            value = let(exp(many, many.min(read(block) - top, many(0.0))))
            self.sink.write(sink, place(block), value, lanes)
            return value

        best, total = Registers(1, lanes, "float32"), Registers(1, lanes, "float32")
        best[0], total[0] = many(LOWEST["float32"]), many(0.0)
        with loop(0, full) as block:
            best[0] = many.max(best[0], read(block))
        last = lanes_of(read(full), lanes)[:rest] if rest else []
        highest = let(reduce(one.max, [*lanes_of(best[0], lanes), *last]))
        top = let(repeat(highest, lanes))
        with loop(0, full) as block:
            total[0] = total[0] + raised(block)
        sums = lanes_of(total[0], lanes)
        if rest:
            sums += lanes_of(raised(full), lanes)[:rest]
        share = let(repeat(let(one(1.0) / reduce(add, sums)), lanes))
        with loop(0, full + bool(rest)) as block:
            at = place(block)
            self.sink.write(sink, at, self.sink.read(sink, at, lanes) * share, lanes)
