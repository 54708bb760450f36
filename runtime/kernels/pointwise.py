"""What happens to one vector of results before it is stored, and a kernel that does only that.

An expression is a list of elementwise operators over one main value and operands from memory: bias
and activation, a residual sum, the gate of a squeeze-and-excitation. Every kernel that makes a
blocked image ends in one, so no elementwise operator after it costs a pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphopt.runtime.kernels.formulas import apply
from graphopt.runtime.kernels.grid import Grid, Half
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Value,
    cast,
    constant,
    divide,
    kernel,
    let,
    loop,
)


@dataclass(frozen=True)
class Strides:
    """How an image lies in memory: distances are counted in elements.

    Attributes:
        row: from one row to the next.
        plane: from one channel block to the next.
        pixel: from one pixel to the next; 0 where that is one vector of the kernel. A kernel with
            shorter vectors sees every block as several.
        grid: of an image of integers; or what an image in half precision is to a kernel of float32.
    """

    row: int
    plane: int
    pixel: int = 0
    grid: Grid | Half | None = None

    def at(self, block: Index, row: Index, lanes: int) -> Index:
        """Where a row of a block of `lanes` channels begins."""
        inside: Index = 0
        if self.pixel > lanes:
            block, piece = divide(block, self.pixel // lanes)
            inside = piece * lanes
        return block * self.plane + row * self.row + inside

    def step(self, lanes: int) -> int:
        """Elements from pixel to pixel."""
        return self.pixel or lanes

    def dtype(self, machine: Machine) -> str:
        """Of an element."""
        return self.grid.dtype if self.grid else machine.dtype

    def read(self, array: Array, index: Index, lanes: int) -> Value:
        """The numbers of one vector."""
        vector = array.vector(index, lanes)
        return self.grid.read(vector, lanes) if self.grid else vector

    def write(self, array: Array, index: Index, value: Value, lanes: int) -> None:
        """Stores the numbers of one vector."""
        array.put(index, self.grid.written(value, lanes) if self.grid else value, lanes)


@dataclass(frozen=True)
class Operand:
    """An array read at the place that is written.

    `image` has a vector at every pixel, `channels` one for every channel block.
    """

    kind: Literal["image", "channels"]
    strides: Strides

    def load(self, array: Array, at: tuple[Index, Index, Index], lanes: int) -> Value:
        """The vector for (channel block, row, column)."""
        block, row, column = at
        if self.kind == "channels":
            return self.strides.read(array, self.strides.at(block, 0, lanes), lanes)
        index = self.strides.at(block, row, lanes) + column * self.strides.step(lanes)
        return self.strides.read(array, index, lanes)


@dataclass(frozen=True)
class Apply:
    """One operator: its ONNX name, which values it takes, and its attributes.

    "Constant" takes none and is its attribute `value`.
    """

    op: str
    inputs: tuple[int, ...]
    attrs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Expression:
    """Value 0 is the main one, then come the operands, then what each step makes."""

    operands: tuple[Operand, ...] = ()
    steps: tuple[Apply, ...] = ()

    def dtypes(self, machine: Machine) -> tuple[str, ...]:
        """Of the operands' elements."""
        return tuple(o.strides.dtype(machine) for o in self.operands)

    def value(
        self,
        main: Value,
        arrays: Sequence[Array],
        at: tuple[Index, Index, Index],
        machine: Machine,
    ) -> Value:
        """The last value, for the vector at (channel block, row, column)."""
        lanes = machine.lanes
        values = [main]
        for operand, array in zip(self.operands, arrays, strict=True):
            value = operand.load(array, at, lanes)
            if operand.strides.grid is not None and machine.dtype != "float32":
                value = cast(value, machine.dtype, lanes)  # integers are numbers of float32
            values.append(let(value))
        for step in self.steps:
            attrs = dict(step.attrs)
            if step.op == "Constant":
                values.append(constant(attrs["value"], machine.dtype, lanes))
                continue
            taken = tuple(values[i] for i in step.inputs)
            values.append(let(apply(step.op, taken, attrs, machine)))
        return values[-1] if self.steps else main


AS_IT_IS = Expression()


@dataclass(frozen=True)
class Pointwise:
    """y = expression(x) over a blocked image; one part is one row of one channel block."""

    machine: Machine
    source: Strides
    sink: Strides
    blocks: int
    height: int
    width: int
    expression: Expression

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
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink, *operands = arrays
            block, row = divide(part, self.height)
            start = let(self.source.at(block, row, lanes))
            to = let(self.sink.at(block, row, lanes))
            with loop(0, self.width) as column:
                main = let(
                    self.source.read(source, start + column * self.source.step(lanes), lanes)
                )
                at = (block, row, column)
                value = self.expression.value(main, operands, at, self.machine)
                self.sink.write(sink, to + column * self.sink.step(lanes), value, lanes)

        return kernel(name, self.arrays, body)
