"""Pooling of blocked images: windows one row at a time, and the mean of a whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphopt.runtime.kernels.conv import Window, tiled_kernel
from graphopt.runtime.kernels.formulas import LOWEST, Numbers
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    cast,
    constant,
    kernel,
    let,
    loop,
    repeat,
)


@dataclass(frozen=True)
class WindowPool:
    """y[c, i, j] = max (or mean) of x[c, i s + u - p, j s + v - p] over the window.

    A window that reaches over the border of a maximum takes the nearest pixel instead: that one is
    in the window too, so the maximum is the same. That of a mean reads the zeros of the border. One part is
    one row of one channel block.

    Attributes:
        share: what a sum is multiplied by for a mean, where that is not 1 / (pixels of a window).
        inside: whether a mean is of the pixels inside of the image; `share` is 1 then, or the scale of
            integers, and their number is counted where a window stands.
    """

    machine: Machine
    kind: Literal["max", "mean"]
    window: Window
    source: Strides
    sink: Strides
    blocks: int
    image: tuple[int, int]
    height: int
    width: int
    columns: int
    expression: Expression = AS_IT_IS
    share: float = 0.0
    inside: bool = False

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink, operands."""
        own = (self.source.dtype(self.machine), self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""

        size = (self.height, self.width)
        return tiled_kernel(name, self.arrays, size, self.columns, self._tile)

    def _tile(self, arrays: Sequence[Array], at: tuple[Index, Index, Index], columns: int) -> None:
        source, sink, *operands = arrays
        lanes, window = self.machine.lanes, self.window
        numbers = Numbers(self.machine.dtype, lanes)
        block, row, column = at
        (high, wide), (down, right) = window.kernel, window.stride
        found = Registers(columns, lanes, self.machine.dtype)
        corner = let(self.source.at(block, 0, lanes))
        step = self.source.step(lanes)
        left = let(column * right - window.pads[1])
        reached = sorted(
            {k * right + v * window.dilation[1] for k in range(columns) for v in range(wide)}
        )
        with loop(0, high) as u:
            line = row * down + u * window.dilation[0] - window.pads[0]
            start = let(corner + self._held(line, self.image[0]) * self.source.row)
            values = {
                i: let(
                    self.source.read(
                        source, start + self._held(left + i, self.image[1]) * step, lanes
                    )
                )
                for i in reached
            }
            row_values = [self._of_row(numbers, values, k * right, wide) for k in range(columns)]
            self._gather(numbers, found, row_values, is_first=u)
        for k in range(columns):
            value = found[k]
            if self.kind == "mean":
                value = value * self._share(row, column + k)
            value = self.expression.value(
                let(value), operands, (block, row, column + k), self.machine
            )
            to = self.sink.at(block, row, lanes) + (column + k) * self.sink.step(lanes)
            self.sink.write(sink, to, value, lanes)

    def _share(self, row: Index, column: Index) -> Value:
        """What the sum of the window at a result is multiplied by."""
        lanes, dtype = self.machine.lanes, self.machine.dtype
        (high, wide) = self.window.kernel
        if not self.inside:
            return constant(self.share or 1.0 / (high * wide), dtype, lanes)
        count = self._reached(row, 0) * self._reached(column, 1)
        share = constant(self.share or 1.0, dtype, 1) / cast(count, dtype, 1)
        return repeat(let(share), lanes)

    def _reached(self, at: Index, axis: int) -> Index:
        """How many pixels of the image the window at a result has along an axis."""
        from tvm import tirx

        first = at * self.window.stride[axis] - self.window.pads[axis]
        end = tirx.Min(first + self.window.kernel[axis], tirx.const(self.image[axis], "int32"))
        return end - tirx.Max(first, tirx.const(0, "int32"))

    def _held(self, position: Index, size: int) -> Index:
        """The position, moved into the image where a maximum has padding."""
        from tvm import tirx

        if self.kind == "mean":
            return position
        return tirx.Max(tirx.Min(position, tirx.const(size - 1, "int32")), tirx.const(0, "int32"))

    def _of_row(self, numbers: Numbers, values: dict[int, Value], first: int, wide: int) -> Value:
        total = values[first]
        for v in range(1, wide):
            other = values[first + v * self.window.dilation[1]]
            total = numbers.max(total, other) if self.kind == "max" else total + other
        return let(total)

    def _gather(
        self, numbers: Numbers, found: Registers, values: list[Value], is_first: Index
    ) -> None:
        from tvm import tirx

        neutral = numbers(LOWEST[self.machine.dtype] if self.kind == "max" else 0.0)
        for k, value in enumerate(values):
            before = neutral
            if not isinstance(is_first, int):
                started = tirx.GT(is_first, tirx.const(0, "int32"))
                before = tirx.Select(_in_lanes(started, self.machine.lanes), found[k], neutral)
            found[k] = numbers.max(before, value) if self.kind == "max" else before + value


def _in_lanes(condition: Value, lanes: int) -> Value:
    return repeat(condition, lanes)


@dataclass(frozen=True)
class ImagePool:
    """y[c] = mean (or max) of x[c, i, j] over the image; one part is one channel block.

    Attributes:
        share: what the sum is multiplied by for a mean, where that is not 1 / (pixels).
    """

    machine: Machine
    kind: Literal["max", "mean"]
    source: Strides
    sink: Strides
    blocks: int
    image: tuple[int, int]
    expression: Expression = AS_IT_IS
    share: float = 0.0

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.blocks

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, sink, operands."""
        own = (self.source.dtype(self.machine), self.sink.dtype(self.machine))
        return (*own, *self.expression.dtypes(self.machine))

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes, (height, width) = self.machine.lanes, self.image

        def body(arrays: Sequence[Array], block: Value) -> None:
            source, sink, *operands = arrays
            # In float16 a sum over an image would lose its last bits.
            numbers = Numbers("float32", lanes)
            # Four sums: one would wait for each addition before the next.
            chains = min(4, width)
            found = Registers(chains, lanes, "float32")
            for k in range(chains):
                found[k] = numbers(LOWEST["float32"] if self.kind == "max" else 0.0)

            step = self.source.step(lanes)

            def add(k: int, at: Index) -> None:
                value = self.source.read(source, at, lanes)
                self._add(numbers, found, k, cast(value, "float32", lanes))

            with loop(0, height) as row:
                start = let(self.source.at(block, row, lanes))
                with loop(0, width // chains) as group:
                    for k in range(chains):
                        add(k, start + (group * chains + k) * step)
                for k in range(width % chains):
                    add(k, start + (width // chains * chains + k) * step)
            for k in range(1, chains):
                self._add(numbers, found, 0, found[k])
            value = found[0]
            if self.kind == "mean":
                value = value * numbers(self.share or 1.0 / (height * width))
            value = let(cast(value, self.machine.dtype, lanes))
            value = self.expression.value(value, operands, (block, 0, 0), self.machine)
            self.sink.write(sink, self.sink.at(block, 0, lanes), value, lanes)

        return kernel(name, self.arrays, body)

    def _add(self, numbers: Numbers, found: Registers, k: int, value: Value) -> None:
        found[k] = numbers.max(found[k], value) if self.kind == "max" else found[k] + value
