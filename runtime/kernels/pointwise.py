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
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Value,
    constant,
    divide,
    kernel,
    let,
    loop,
)


@dataclass(frozen=True)
class Strides:
    """How far apart the rows and the channel blocks of an image are, in elements."""

    row: int
    plane: int


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
        index = block * self.strides.plane
        if self.kind == "image":
            index = index + row * self.strides.row + column * lanes
        return array.vector(index, lanes)


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
        values += [let(o.load(a, at, lanes)) for o, a in zip(self.operands, arrays, strict=True)]
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
        return (self.machine.dtype,) * (2 + len(self.expression.operands))

    def build(self, name: str) -> Any:
        """The TIR function."""
        lanes = self.machine.lanes

        def body(arrays: Sequence[Array], part: Value) -> None:
            source, sink, *operands = arrays
            block, row = divide(part, self.height)
            start = let(block * self.source.plane + row * self.source.row)
            to = let(block * self.sink.plane + row * self.sink.row)
            with loop(0, self.width) as column:
                main = let(source.vector(start + column * lanes, lanes))
                at = (block, row, column)
                value = self.expression.value(main, operands, at, self.machine)
                sink.put(to + column * lanes, value, lanes)

        return kernel(name, self.arrays, body)
