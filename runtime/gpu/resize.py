"""Linear interpolation between the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.runtime.gpu.expression import Ending
from graphopt.runtime.gpu.simple import PerPixel, Shape
from graphopt.runtime.lower.interpolation import Axis


def _declared(axis: Axis, name: str, index: str) -> list[str]:
    """Declares the pixels before and behind the place of a result, and the share of the latter."""
    first, step = axis.line
    last = axis.small - 1
    return [
        f"const float {name} = fmin(fmax({index} * {step!r}f + {first!r}f, 0.0f), {last}.0f);",
        f"const int {name}0 = (int){name}, {name}1 = {name}0 < {last} ? {name}0 + 1 : {last};",
        f"const float {name}_share = {name} - {name}0;",
    ]


@dataclass(frozen=True)
class Interpolate(PerPixel):
    """y[c, i, j] = x[c, down(i), right(j)], between pixels in proportion."""

    image: Shape
    made: Shape
    down: Axis
    right: Axis
    ending: Ending

    def value(self) -> str:
        """Four pixels, two by two."""
        image, width = self.image, self.made.width
        loads = [
            f"const float4 p{i}{j} = load_float4(from + (row{i} * {image.width} + column{j}) * 4);"
            for i in (0, 1)
            for j in (0, 1)
        ]
        return "\n".join(
            [
                f"__global const element *const from = x + block * {image.pixels * 4};",
                *_declared(self.down, "row", f"(pixel / {width})"),
                *_declared(self.right, "column", f"(pixel % {width})"),
                *loads,
                "const float4 above = p00 + (p01 - p00) * column_share;",
                "const float4 below = p10 + (p11 - p10) * column_share;",
                "const float4 value = above + (below - above) * row_share;",
            ]
        )
