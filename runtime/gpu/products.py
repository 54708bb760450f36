"""Products: convolutions as implicit matrix products, transposed and depthwise ones.

The matrix has a row for every pixel of the result, a column for every channel; what is summed over
are the taps of the window and the channels of the image. A work-item keeps a tile of `pixels` by
`blocks` (of four channels) in registers. Its pixels are `Tile.across` apart, so that neighbours in a
group read neighbours in memory.

In half precision a sum over few channels is kept in half, twice as fast, and added to one in float.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.runtime.gpu.expression import Ending, scoped
from graphopt.runtime.gpu.kernel import Array, Size, Written, indented, item
from graphopt.runtime.gpu.simple import Shape, window_start
from graphopt.runtime.kernels.conv import Window

_ARRAYS = (Array("x"), Array("w"), Array("y", written=True))
# Blocks of four channels after which a sum in half is added to the one in float.
_IN_HALF = 4


@dataclass(frozen=True)
class Tile:
    """How a convolution is shared out.

    Attributes:
        pixels: of one work-item.
        blocks: channel blocks of one work-item.
        across: work-items of a group along the pixels.
        down: along the channel blocks.
        depth: channel blocks of the image that a group brings into local memory at a time; 0: every
            item reads what it needs by itself.
    """

    pixels: int
    blocks: int
    across: int
    down: int
    depth: int = 0


@dataclass(frozen=True)
class Conv(Written):
    """y = ending(w * x + 0): a convolution; its bias is part of the ending.

    The weight lies as [group][tile of blocks][tap][channel block][4 channels][blocks][4].
    """

    window: Window
    image: Shape
    made: Shape
    conv_groups: int
    tile: Tile
    ending: Ending

    @property
    def arrays(self) -> tuple[Array, ...]:  # type: ignore[override]
        """Source, weight, sink, operands."""
        return (*_ARRAYS, *self.ending.arrays)

    @property
    def local(self) -> Size:  # type: ignore[override]
        """Pixels, channel blocks."""
        return (self.tile.across, self.tile.down, 1)

    @property
    def items(self) -> Size:
        """Pixels, tiles of channel blocks, groups of the convolution."""
        return (-(-self.made.pixels // self.tile.pixels), self._tiles, self.conv_groups)

    @property
    def _depth(self) -> int:
        return self.image.blocks // self.conv_groups

    @property
    def _out(self) -> int:
        return self.made.blocks // self.conv_groups

    @property
    def _tiles(self) -> int:
        return -(-self._out // self.tile.blocks)

    @property
    def _taps(self) -> int:
        return self.window.kernel[0] * self.window.kernel[1]

    def body(self) -> str:
        """The text behind the arrays."""
        tile, depth = self.tile, self._depth
        weights = self._taps * depth * tile.blocks * 16
        names = [f"{p}_{b}" for p in range(tile.pixels) for b in range(tile.blocks)]
        return "\n".join(
            [
                "const int across = (int)get_local_id(0), down = (int)get_local_id(1);",
                f"const int first = (int)get_group_id(0) * {tile.across * tile.pixels} + across;",
                f"const int wanted = (int)get_group_id(1) * {tile.down} + down;",
                # Items beyond the last tile do its work again: they may have to bring in weights.
                f"const int mine = wanted < {self._tiles} ? wanted : {self._tiles - 1};",
                "const int group = (int)get_group_id(2);",
                f"__global const element *const image = x + group * {depth * self.image.pixels * 4};",
                f"const int line = group * {self._tiles} + mine;",
                f"__global const element *const weight = w + line * {weights};",
                *(f"float4 sum{n} = (float4)(0.0f);" for n in names),
                *(self._shared() if tile.depth else self._alone()),
                f"if (wanted >= {self._tiles})",
                "    return;",
                *(self._stored(p, b) for p in range(tile.pixels) for b in range(tile.blocks)),
            ]
        )

    # --- every item by itself ------------------------------------------------------------------

    def _alone(self) -> list[str]:
        (high, wide), pixels = self.window.kernel, range(self.tile.pixels)
        lines = [
            line for p in pixels for line in self._start(f"first + {p * self.tile.across}", str(p))
        ]
        inside = []
        for p in pixels:
            inside += self._at(str(p))
        taps = [f"for (int i = 0; i < {high}; i++)", f"    for (int j = 0; j < {wide}; j++) {{"]
        body = [*inside, f"const int tap = (i * {wide} + j) * {self._depth};", *self._chunks()]
        return [*lines, *taps, indented(indented("\n".join(body))), "    }"]

    def _start(self, pixel: str, suffix: str) -> list[str]:
        """Where the window of a pixel begins. Pixels beyond the last read those of the last."""
        last = self.made.pixels - 1
        name = f"pixel{suffix}"
        return [
            f"const int {name} = {pixel} < {last} ? {pixel} : {last};",
            *window_start(self.window, self.made.width, suffix, name),
        ]

    def _at(self, suffix: str) -> list[str]:
        """Where the pixel of tap (i, j) lies, and whether the image has it."""
        (tall, broad), image = self.window.dilation, self.image
        row, column = f"row{suffix}", f"column{suffix}"
        bounds = ((row, image.height), (column, image.width))
        inside = " && ".join(f"{name} >= 0 && {name} < {size}" for name, size in bounds)
        return [
            f"const int {row} = top{suffix} + i * {tall}, {column} = left{suffix} + j * {broad};",
            f"const int has{suffix} = {inside};",
            f"const int at{suffix} = has{suffix} ? ({row} * {image.width} + {column}) * 4 : 0;",
        ]

    def _chunks(self) -> list[str]:
        """A tap's channel blocks, some at a time."""
        depth, step = self._depth, min(_IN_HALF, self._depth)
        inner = []
        for p in range(self.tile.pixels):
            plane = f"(begin + k) * {self.image.pixels * 4}"
            inner.append(
                f"const real4 a{p} = has{p} ? load_real4(image + {plane} + at{p}) : (real4)(0);"
            )
        inner.append(
            f"__global const element *const b = weight + (tap + begin + k) * {self.tile.blocks * 16};"
        )
        inner += [
            f"const real4 b{k}_{b} = load_real4(b + {(k * self.tile.blocks + b) * 4});"
            for k in range(4)
            for b in range(self.tile.blocks)
        ]
        inner += self._products()
        bound = str(step) if depth % step == 0 else f"min({step}, {depth} - begin)"
        return [
            f"for (int begin = 0; begin < {depth}; begin += {step}) {{",
            indented("\n".join(self._parts())),
            f"    for (int k = 0; k < {bound}; k++) {{",
            indented(indented("\n".join(inner))),
            "    }",
            indented("\n".join(self._added())),
            "}",
        ]

    def _names(self) -> list[str]:
        return [f"{p}_{b}" for p in range(self.tile.pixels) for b in range(self.tile.blocks)]

    def _parts(self) -> list[str]:
        return [f"real4 part{n} = (real4)(0);" for n in self._names()]

    def _added(self) -> list[str]:
        return [f"sum{n} += to_float4(part{n});" for n in self._names()]

    def _products(self) -> list[str]:
        """part += a * b for the tile, over four channels."""
        return [
            f"part{p}_{b} = fma((real4)(a{p}.s{k}), b{k}_{b}, part{p}_{b});"
            for k in range(4)
            for p in range(self.tile.pixels)
            for b in range(self.tile.blocks)
        ]

    # --- a group together ----------------------------------------------------------------------

    def _shared(self) -> list[str]:
        """The group brings pixels and weights into local memory, then every item reads them there."""
        tile, (high, wide) = self.tile, self.window.kernel
        items, wide_pixels = tile.across * tile.down, tile.across * tile.pixels
        weights = tile.depth * 4 * tile.blocks
        return [
            f"__local real4 pixels[{tile.depth * wide_pixels}];",
            f"__local real4 weights[{tile.down * weights}];",
            f"const int me = down * {tile.across} + across;",
            # Every item brings in one pixel of the group, always the same.
            f"const int bring = me % {wide_pixels};",
            *self._start(f"(int)get_group_id(0) * {wide_pixels} + bring", "_in"),
            f"for (int i = 0; i < {high}; i++)",
            f"    for (int j = 0; j < {wide}; j++) {{",
            indented(indented("\n".join(self._at("_in")))),
            f"        const int tap = (i * {wide} + j) * {self._depth};",
            f"        for (int begin = 0; begin < {self._depth}; begin += {tile.depth}) {{",
            f"            for (int k = me / {wide_pixels}; k < {tile.depth}; k += {items // wide_pixels})",
            f"                pixels[k * {wide_pixels} + bring] = has_in && begin + k < {self._depth}",
            f"                    ? load_real4(image + (begin + k) * {self.image.pixels * 4} + at_in)",
            "                    : (real4)(0);",
            indented(indented(indented("\n".join(self._bring_weights(items, weights))))),
            "            barrier(CLK_LOCAL_MEM_FENCE);",
            indented(indented(indented("\n".join(self._from_local(wide_pixels, weights))))),
            "            barrier(CLK_LOCAL_MEM_FENCE);",
            "        }",
            "    }",
        ]

    def _bring_weights(self, items: int, weights: int) -> list[str]:
        tile, per_block = self.tile, 4 * self.tile.blocks
        limit = self._depth * per_block  # of one tap; what lies beyond is met by zeros
        return [
            f"for (int k = me; k < {tile.down * weights}; k += {items}) {{",
            f"    const int row = (int)get_group_id(1) * {tile.down} + k / {weights};",
            f"    const int which = begin * {per_block} + k % {weights};",
            f"    const int known = which < {limit} ? which : {limit - 1};",
            f"    const int line = row < {self._tiles} ? row : {self._tiles - 1};",
            f"    const int from = (group * {self._tiles} + line) * {self._taps * limit};",
            f"    weights[k] = load_real4(w + (from + tap * {per_block} + known) * 4);",
            "}",
        ]

    def _from_local(self, wide_pixels: int, weights: int) -> list[str]:
        tile = self.tile
        inner = [
            f"const real4 a{p} = pixels[k * {wide_pixels} + across + {p * tile.across}];"
            for p in range(tile.pixels)
        ]
        inner += [
            f"const real4 b{k}_{b} = weights[down * {weights} + k * {4 * tile.blocks} + "
            f"{k * tile.blocks + b}];"
            for k in range(4)
            for b in range(tile.blocks)
        ]
        inner += self._products()
        return [
            *self._parts(),
            "#pragma unroll",
            f"for (int k = 0; k < {tile.depth}; k++) {{",
            indented("\n".join(inner)),
            "}",
            *self._added(),
        ]

    # --- the result ----------------------------------------------------------------------------

    def _stored(self, pixel: int, block: int) -> str:
        """Stores one sum, if the result has it."""
        number = f"mine * {self.tile.blocks} + {block}"
        place = f"first + {pixel * self.tile.across}"
        conditions = [f"{place} < {self.made.pixels}"]
        if self._out % self.tile.blocks and block:
            conditions.append(f"{number} < {self._out}")
        ending = self.ending.text(f"sum{pixel}_{block}", "block", "pixel", self.made.pixels, "y")
        lines = [
            f"const int pixel = {place};",
            f"const int block = group * {self._out} + {number};",
            ending,
        ]
        return f"if ({' && '.join(conditions)}) " + scoped(lines)


@dataclass(frozen=True)
class TransposedConv(Conv):
    """A transposed convolution: the result's pixel y reads pixel (y + pad - dilation * i) / stride of the
    image for tap i, where that is whole. The weight is that of the convolution from image to result.
    """

    def _start(self, pixel: str, suffix: str) -> list[str]:
        last, width = self.made.pixels - 1, self.made.width
        name, (above, before) = f"pixel{suffix}", self.window.pads
        return [
            f"const int {name} = {pixel} < {last} ? {pixel} : {last};",
            f"const int top{suffix} = {name} / {width} + {above};",
            f"const int left{suffix} = {name} % {width} + {before};",
        ]

    def _at(self, suffix: str) -> list[str]:
        (tall, broad), (down, right), image = self.window.dilation, self.window.stride, self.image
        row, column = f"row{suffix}", f"column{suffix}"
        axes = ((row, down, image.height), (column, right, image.width))
        inside = " && ".join(
            f"{n} >= 0 && {n} % {by} == 0 && {n} / {by} < {to}" for n, by, to in axes
        )
        place = f"({row} / {down} * {image.width} + {column} / {right}) * 4"
        return [
            f"const int {row} = top{suffix} - i * {tall}, {column} = left{suffix} - j * {broad};",
            f"const int has{suffix} = {inside};",
            f"const int at{suffix} = has{suffix} ? {place} : 0;",
        ]


@dataclass(frozen=True)
class DepthwiseConv(Written):
    """A convolution of every channel by itself; the weight lies as [channel block][tap][4]."""

    window: Window
    image: Shape
    made: Shape
    ending: Ending

    @property
    def arrays(self) -> tuple[Array, ...]:  # type: ignore[override]
        """Source, weight, sink, operands."""
        return (*_ARRAYS, *self.ending.arrays)

    @property
    def items(self) -> Size:
        """Pixels, channel blocks."""
        return (self.made.pixels, self.made.blocks, 1)

    def body(self) -> str:
        """The text behind the arrays. It waits for memory, so sums are in float."""
        (high, wide), (tall, broad), image = self.window.kernel, self.window.dilation, self.image
        return "\n".join(
            [
                f"const int pixel = {item(0, self.local)};",
                f"const int block = {item(1, self.local)};",
                f"if (pixel >= {self.made.pixels})",
                "    return;",
                f"__global const element *const from = x + block * {image.pixels * 4};",
                f"__global const element *const weight = w + block * {high * wide * 4};",
                "float4 sum = (float4)(0.0f);",
                *window_start(self.window, self.made.width, ""),
                f"for (int i = 0; i < {high}; i++) {{",
                f"    const int row = top + i * {tall};",
                f"    if (row < 0 || row >= {image.height})",
                "        continue;",
                f"    for (int j = 0; j < {wide}; j++) {{",
                f"        const int column = left + j * {broad};",
                f"        if (column >= 0 && column < {image.width})",
                f"            sum = fma(load_float4(from + (row * {image.width} + column) * 4),",
                f"                      load_float4(weight + (i * {wide} + j) * 4), sum);",
                "    }",
                "}",
                self.ending.text("sum", "block", "pixel", self.made.pixels, "y"),
            ]
        )
