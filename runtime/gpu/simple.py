"""Kernels over images that multiply nothing by weights: pools, enlarging, elementwise, new layouts.

An image of C x H x W is stored as [C / 4][H][W][4] elements, without borders: a window asks for every
pixel whether the image has it. Channels beyond the last are numbers nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.runtime.gpu.expression import Ending
from graphopt.runtime.gpu.kernel import GROUP, Array, Size, Written, item
from graphopt.runtime.kernels.conv import Window

_X, _Y = Array("x"), Array("y", written=True)


def blocks_of(channels: int) -> int:
    """Channel blocks of an image."""
    return -(-channels // 4)


@dataclass(frozen=True)
class Shape:
    """Channels and pixels of an image."""

    channels: int
    height: int
    width: int

    @property
    def blocks(self) -> int:
        """Channel blocks."""
        return blocks_of(self.channels)

    @property
    def pixels(self) -> int:
        """Of one channel."""
        return self.height * self.width

    @property
    def elements(self) -> int:
        """That are stored."""
        return self.blocks * self.pixels * 4


class PerPixel(Written):
    """A work-item for every pixel of every channel block of the result."""

    made: Shape
    ending: Ending

    @property
    def arrays(self) -> tuple[Array, ...]:  # type: ignore[override]
        """Source, sink, operands."""
        return (_X, _Y, *self.ending.arrays)

    @property
    def items(self) -> Size:
        """Pixels, blocks."""
        return (self.made.pixels, self.made.blocks, 1)

    def value(self) -> str:
        """Statements that declare float4 `value` of `pixel` and `block`."""
        raise NotImplementedError

    def body(self) -> str:
        """The text behind the arrays."""
        lines = [
            f"const int pixel = {item(0, self.local)};",
            f"const int block = {item(1, self.local)};",
            f"if (pixel >= {self.made.pixels})",
            "    return;",
            self.value(),
            self.ending.text("value", "block", "pixel", self.made.pixels, "y"),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Pointwise(PerPixel):
    """y = ending(x)."""

    made: Shape
    ending: Ending

    def value(self) -> str:
        """The pixel itself."""
        return f"const float4 value = load_float4(x + (block * {self.made.pixels} + pixel) * 4);"


@dataclass(frozen=True)
class Enlarge(PerPixel):
    """y[c, i, j] = x[c, i / factor, j / factor]."""

    made: Shape
    factors: tuple[int, int]
    ending: Ending

    def value(self) -> str:
        """The pixel it is a copy of."""
        down, right = self.factors
        width = self.made.width // right
        pixels = self.made.pixels // (down * right)
        return "\n".join(
            [
                f"const int row = pixel / {self.made.width} / {down};",
                f"const int column = pixel % {self.made.width} / {right};",
                f"const float4 value = load_float4(x + (block * {pixels} + row * {width} + column) * 4);",
            ]
        )


@dataclass(frozen=True)
class WindowPool(PerPixel):
    """The largest, or the mean, of a window.

    Pixels outside are zeros to a mean; where it is of those `inside` alone they do not count.
    """

    kind: Literal["max", "mean"]
    window: Window
    image: Shape
    made: Shape
    ending: Ending
    inside: bool = False

    def value(self) -> str:
        """The window's value."""
        (high, wide), image = self.window.kernel, self.image
        start, add = (
            ("-INFINITY", "fmax(value, {})") if self.kind == "max" else ("0.0f", "value + {}")
        )
        each = add.format(f"load_float4(from + (row * {image.width} + column) * 4)")
        count = "(float)count" if self.inside else f"{float(high * wide)!r}f"
        mean = [f"value /= {count};"] if self.kind == "mean" else []
        return "\n".join(
            [
                f"__global const element *const from = x + block * {image.pixels * 4};",
                f"float4 value = (float4)({start});",
                "int count = 0;",
                *window_start(self.window, self.made.width, ""),
                f"for (int i = 0; i < {high}; i++)",
                f"    for (int j = 0; j < {wide}; j++) {{",
                f"        const int row = top + i * {self.window.dilation[0]};",
                f"        const int column = left + j * {self.window.dilation[1]};",
                f"        if (row < 0 || row >= {image.height} || column < 0 || column >= {image.width})",
                "            continue;",
                f"        value = {each};",
                "        count++;",
                "    }",
                *mean,
            ]
        )


def window_start(window: Window, width: int, suffix: str, pixel: str = "pixel") -> list[str]:
    """Declares where in the image the window of a pixel begins: `top` and `left`."""
    (down, right), (above, before) = window.stride, window.pads
    return [
        f"const int top{suffix} = {pixel} / {width} * {down} - {above};",
        f"const int left{suffix} = {pixel} % {width} * {right} - {before};",
    ]


@dataclass(frozen=True)
class ImagePool(Written):
    """The largest, or the mean, of a whole channel: a work-group for every channel block."""

    kind: Literal["max", "mean"]
    image: Shape
    ending: Ending

    @property
    def arrays(self) -> tuple[Array, ...]:  # type: ignore[override]
        """Source, sink, operands."""
        return (_X, _Y, *self.ending.arrays)

    @property
    def items(self) -> Size:
        """One group a block."""
        return (GROUP, self.image.blocks, 1)

    def body(self) -> str:
        """Every item takes each 64th pixel; then halves of the group join the others."""
        pixels = self.image.pixels
        start, add = ("-INFINITY", "fmax({}, {})") if self.kind == "max" else ("0.0f", "{} + {}")
        scale = f" * {1 / pixels!r}f" if self.kind == "mean" else ""
        each = add.format("value", f"load_float4(x + (block * {pixels} + pixel) * 4)")
        joined = add.format("all[me]", "all[me + half_of]")
        return "\n".join(
            [
                f"__local float4 all[{GROUP}];",
                "const int me = (int)get_local_id(0);",
                "const int block = (int)get_group_id(1);",
                f"float4 value = (float4)({start});",
                f"for (int pixel = me; pixel < {pixels}; pixel += {GROUP})",
                f"    value = {each};",
                "all[me] = value;",
                f"for (int half_of = {GROUP // 2}; half_of > 0; half_of /= 2) {{",
                "    barrier(CLK_LOCAL_MEM_FENCE);",
                "    if (me < half_of)",
                f"        all[me] = {joined};",
                "}",
                "if (me == 0) {",
                f"    const float4 result = all[0]{scale};",
                self.ending.text("result", "block", "0", 1, "y"),
                "}",
            ]
        )


@dataclass(frozen=True)
class _PerBlock(Written):
    """A work-item for every pixel of every block of four channels."""

    shape: Shape

    @property
    def items(self) -> Size:
        """Pixels, blocks."""
        return (self.shape.pixels, self.shape.blocks, 1)

    def _begin(self) -> list[str]:
        return [
            f"const int pixel = {item(0, self.local)};",
            f"const int block = {item(1, self.local)};",
            f"if (pixel >= {self.shape.pixels})",
            "    return;",
        ]


@dataclass(frozen=True)
class Block(_PerBlock):
    """From rows of floats to an image; channels beyond the last are 0."""

    arrays = (Array("x", "float"), _Y)

    def body(self) -> str:
        """Four channels of a pixel."""
        pixels, channels = self.shape.pixels, self.shape.channels
        lanes = [
            f"value.s{k} = block * 4 + {k} < {channels} ? from[{k * pixels}] : 0.0f;"
            for k in range(4)
        ]
        return "\n".join(
            [
                *self._begin(),
                f"__global const float *const from = x + block * {4 * pixels} + pixel;",
                "float4 value;",
                *lanes,
                f"store_float4(value, y + (block * {pixels} + pixel) * 4);",
            ]
        )


@dataclass(frozen=True)
class Unblock(_PerBlock):
    """From an image to rows of floats."""

    arrays = (_X, Array("y", "float", written=True))

    def body(self) -> str:
        """Four channels of a pixel."""
        pixels, channels = self.shape.pixels, self.shape.channels
        stores = [
            f"if (block * 4 + {k} < {channels})\n    to[{k * pixels}] = value.s{k};"
            for k in range(4)
        ]
        return "\n".join(
            [
                *self._begin(),
                f"const float4 value = load_float4(x + (block * {pixels} + pixel) * 4);",
                f"__global float *const to = y + block * {4 * pixels} + pixel;",
                *stores,
            ]
        )


@dataclass(frozen=True)
class CopyChannels(Written):
    """y[to + c] = x[c] for every channel of x: a piece of a Concat that begins anywhere.

    `last` says that channels of y beyond the piece, to the end of the block, are set to 0.
    """

    shape: Shape
    to: int
    last: bool
    # As bits: a device without arithmetic in half has no values of it either.
    arrays = (Array("x", "bits"), Array("y", "bits", written=True))

    @property
    def items(self) -> Size:
        """Pixels, channels."""
        return (self.shape.pixels, self._channels, 1)

    @property
    def _channels(self) -> int:
        return self.shape.channels + (-(self.to + self.shape.channels) % 4 if self.last else 0)

    def body(self) -> str:
        """One channel of a pixel."""
        pixels = self.shape.pixels
        value = f"x[(channel / 4 * {pixels} + pixel) * 4 + channel % 4]"
        return "\n".join(
            [
                f"const int pixel = {item(0, self.local)};",
                f"const int channel = {item(1, self.local)};",
                f"if (pixel >= {pixels})",
                "    return;",
                f"const int to = channel + {self.to};",
                f"const bits value = channel < {self.shape.channels} ? {value} : 0;",
                f"y[(to / 4 * {pixels} + pixel) * 4 + to % 4] = value;",
            ]
        )
