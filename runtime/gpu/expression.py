"""What a region's kernel ends in: elementwise operators on four channels of a pixel, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graphopt.runtime.gpu.kernel import Array
from graphopt.runtime.gpu.text import Term, TextNumbers
from graphopt.runtime.kernels.pointwise import Apply

# `image` has a value at every pixel, `gate` one for every channel, `constant` the same in float.
Kind = Literal["image", "gate", "constant"]


@dataclass(frozen=True)
class Ending:
    """Value 0 is the main one, then come the operands, then what each step makes."""

    operands: tuple[Kind, ...] = ()
    steps: tuple[Apply, ...] = ()

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The operands, in order."""
        return tuple(
            Array(f"operand{i}", "float" if kind == "constant" else "element")
            for i, kind in enumerate(self.operands)
        )

    def text(self, main: str, block: str, pixel: str, pixels: int, sink: str) -> str:
        """Statements that store what becomes of the float4 `main` of a pixel.

        Args:
            main: the value.
            block: the number of its channel block.
            pixel: the number of the pixel.
            pixels: of the image.
            sink: the array that is written, an image of the same shape.
        """
        place = f"(({block}) * {pixels} + {pixel}) * 4"
        loads = [self._load(i, kind, block, place) for i, kind in enumerate(self.operands)]
        value = f"store_float4({{}}, {sink} + {place});"
        if not self.steps:
            return value.format(main)
        numbers = TextNumbers(4)
        values = [numbers.let(Term(text)) for text in (main, *loads)]
        for step in self.steps:
            values.append(numbers.applied(step, values))
        return "\n".join([*numbers.lines, value.format(values[-1].text)])

    def _load(self, index: int, kind: Kind, block: str, place: str) -> str:
        name = f"operand{index}"
        if kind == "constant":
            return f"((__global const float4 *){name})[{block}]"
        at = place if kind == "image" else f"({block}) * 4"
        return f"load_float4({name} + {at})"


def scoped(lines: Sequence[str] | str) -> str:
    """Statements in a scope of their own."""
    text = lines if isinstance(lines, str) else "\n".join(lines)
    return f"{{\n{text}\n}}"
