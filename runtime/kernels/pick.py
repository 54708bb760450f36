"""A copy of some channels of a blocked image, in any order: channel shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.simd import Array, Machine, Value, divide, kernel, let, loop


@dataclass(frozen=True)
class PickChannels:
    """y[c] = x[p(c)]; one part is one row of one channel block of y.

    Where channel p(c) begins in the source is read from an array of offsets, one for every lane of y's
    blocks, so that one kernel does for all orders.
    """

    machine: Machine
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, offsets, sink."""
        return (self.machine.dtype, "int32", self.machine.dtype)

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, offsets, sink = arrays
            block, row = divide(part, self.height)
            start = let(row * self.source.row)
            starts = [let(start + offsets.scalar(block * lanes + i)) for i in range(lanes)]
            to = let(block * self.sink.plane + row * self.sink.row)
            with loop(0, self.width) as column:
                values = [let(source.scalar(s + column * lanes)) for s in starts]
                for i, value in enumerate(values):
                    sink.put_scalar(to + column * lanes + i, value)

        return kernel(name, self.arrays, body)
