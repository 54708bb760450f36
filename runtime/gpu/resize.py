"""Linear interpolation between the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.runtime.gpu.expression import Ending
from graphopt.runtime.gpu.simple import PerPixel, Shape

# What ONNX calls ways to say where the pixels of a result lie.
CENTRES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@dataclass(frozen=True)
class Axis:
    """One axis of an enlargement.

    Attributes:
        how: coordinate_transformation_mode of ONNX.
        small: pixels of the image.
        large: pixels of the result.
        scale: as it is given; not always the ratio of the two.
    """

    how: str
    small: int
    large: int
    scale: float

    @property
    def line(self) -> tuple[float, float]:
        """Where the first pixel of the result lies in the image, and how far each next one."""
        if self.how == "align_corners":
            return 0.0, (self.small - 1) / (self.large - 1) if self.large > 1 else 0.0
        step = 1 / self.scale
        if self.how == "asymmetric" or (self.how == "pytorch_half_pixel" and self.large == 1):
            return 0.0, step
        return 0.5 * step - 0.5, step

    def text(self, name: str, index: str) -> list[str]:
        """Declares the pixels before and behind the place of a result, and the share of the latter."""
        first, step = self.line
        last = self.small - 1
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
                *self.down.text("row", f"(pixel / {width})"),
                *self.right.text("column", f"(pixel % {width})"),
                *loads,
                "const float4 above = p00 + (p01 - p00) * column_share;",
                "const float4 below = p10 + (p11 - p10) * column_share;",
                "const float4 value = above + (below - above) * row_share;",
            ]
        )
