"""Between plain images [H][W][C] of float32 and blocked ones: vectors of channels, moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.runtime.kernels.blocking import Turning
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
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
class BlockPixels(Turning):
    """Channels last to blocked; lanes beyond C are zero. One part is one row of a channel block."""

    sink: Strides

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return ("float32", self.machine.dtype)

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes, dtype = self.machine.lanes, self.machine.dtype

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            block, row = divide(part, self.height)
            start = let(row * (self.width * self.channels) + block * lanes)
            to = let(block * self.sink.plane + row * self.sink.row)

            def whole(at: Index, pixel: Index) -> None:
                value = cast(source.vector(start + at, lanes), dtype, lanes)
                sink.put(to + pixel * lanes, value, lanes)

            def rest(at: Index, pixel: Index) -> None:
                for c in range(lanes):
                    value = constant(0.0, "float32", 1)
                    if c < self.channels % lanes:
                        value = source.scalar(start + at + c)
                    sink.put_scalar(to + pixel * lanes + c, cast(value, dtype, 1))

            _pixels(self, block, whole, rest)

        return kernel(name, self.arrays, body)


@dataclass(frozen=True)
class UnblockPixels(Turning):
    """Blocked to channels last. One part is one row of a channel block."""

    source: Strides

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink."""
        return (self.machine.dtype, "float32")

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink = arrays
            block, row = divide(part, self.height)
            start = let(block * self.source.plane + row * self.source.row)
            to = let(row * (self.width * self.channels) + block * lanes)

            def whole(at: Index, pixel: Index) -> None:
                value = cast(source.vector(start + pixel * lanes, lanes), "float32", lanes)
                sink.put(to + at, value, lanes)

            def rest(at: Index, pixel: Index) -> None:
                for c in range(self.channels % lanes):
                    value = cast(source.scalar(start + pixel * lanes + c), "float32", 1)
                    sink.put_scalar(to + at + c, value)

            _pixels(self, block, whole, rest)

        return kernel(name, self.arrays, body)


def _pixels(
    job: Turning,
    block: Index,
    whole: Callable[[Index, Index], None],
    rest: Callable[[Index, Index], None],
) -> None:
    """Every pixel of a row, with its place in the plain row; `rest` where a block is not full."""
    full, over = divmod(job.channels, job.machine.lanes)
    for count, each, holds in ((full, whole, block < full), (over, rest, block >= full)):
        if count:
            with when(holds if full and over else True), loop(0, job.width) as pixel:
                each(let(pixel * job.channels), pixel)
