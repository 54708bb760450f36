"""y[r, c] = e^(x[r, c] - max x[r]) / sum over j of e^(x[r, j] - max x[r]), over rows as they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from graphopt.runtime.kernels.formulas import Numbers, exp
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    kernel,
    lane,
    let,
    loop,
    repeat,
)


@dataclass(frozen=True)
class RowsSoftmax:
    """A softmax over every row of at least one vector; one part is one row.

    Where a row is no multiple of a vector, its last vector begins early: what is read twice is the same,
    and counted once.
    """

    machine: Machine
    rows: int
    columns: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.rows

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return ("float32", "float32")

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes
        full, rest = divmod(self.columns, lanes)
        one, many = Numbers("float32", 1), Numbers("float32", lanes)

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            start = let(part * self.columns)
            last = let(start + self.columns - lanes)
            best, total = Registers(1, lanes, "float32"), Registers(1, lanes, "float32")
            best[0] = source.vector(last, lanes)
            total[0] = many(0.0)

            def highest(at: Index) -> None:
                best[0] = many.max(best[0], source.vector(at, lanes))

            def raised(at: Index) -> Value:
                value = let(exp(many, source.vector(at, lanes) - top))
                sink.put(at, value, lanes)
                return value

            def counted(at: Index) -> None:
                total[0] = total[0] + raised(at)

            self._vectors(start, full, highest)
            top = let(repeat(let(reduce(one.max, lanes_of(best[0], lanes))), lanes))
            self._vectors(start, full, counted)
            sums = lanes_of(total[0], lanes)
            if rest:
                sums += lanes_of(raised(last), lanes)[lanes - rest :]
            share = let(one(1.0) / reduce(add, sums))
            shares = let(repeat(share, lanes))
            self._vectors(
                start, full, lambda at: sink.put(at, sink.vector(at, lanes) * shares, lanes)
            )
            if rest:
                with loop(full * lanes, self.columns) as column:
                    sink.put_scalar(start + column, sink.scalar(start + column) * share)

        return kernel(name, self.arrays, body)

    def _vectors(self, start: Index, count: int, do: Callable[[Index], None]) -> None:
        with loop(0, count) as index:
            do(let(start + index * self.machine.lanes))


def lanes_of(vector: Value, count: int) -> list[Value]:
    """The values of a vector, one by one."""
    held = let(vector)
    return [lane(held, i) for i in range(count)]
