"""Convolution of 8-bit integers: sums in 32 bits, scaled, and whatever follows, before they are stored.

    y[o] = M[o] (b[o] + sum over c, u, v of w[o, c, u, v] q[c, i s + u d - p, j s + v d - p])

Images of integers have blocks of 16 channels, one vector of 128 bits, and a border of zero points,
whose part in the sums stands in b: the kernel never subtracts one. Four ways to multiply:

    sdot   ARMv8.2: four products of bytes are added to each of four sums; the bytes of a pixel are a lane
    smlal  ARMv8.0: sixteen products of one output, added by two in 16 bits (weights leave out -128)
    vnni   x86: as sdot, but a pixel's bytes are unsigned and repeated
    wide   anything: products of 32 bits

Where pixels have the wrong sign for an instruction, their highest bit is flipped, which moves them by 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.runtime.kernels.conv import EVERY_PIXEL, Spread, Window, tiled_kernel
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Strides
from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    Value,
    bits,
    cast,
    constant,
    divide,
    intrinsic,
    joined,
    lane,
    let,
    loop,
    piece,
    repeat,
    when,
)

BLOCK = 16  # channels of a pixel that lie together
_UNROLLED = 3  # taps of a row: at a loop's head LLVM moves all sums from register to register
_FEW = 2  # blocks of channels
_GROUP = 4  # bytes one instruction multiplies and adds up
_QUAD = 4  # int32 in 128 bits
_FLIPS = -2139062144  # the highest bit of four bytes


@dataclass(frozen=True)
class _Tap:
    """What one tap of the window adds to the sums of a register tile.

    Attributes:
        at_weight: where the tap's weights stand.
        pixels: where the block of channels of each pixel stands.
        channels: of the block that count.
    """

    source: Array
    weight: Array
    at_weight: Index
    pixels: list[Index]
    sums: Registers
    channels: int


@dataclass(frozen=True)
class IntegerConv:
    """A convolution of images of integers. One part is one row of a tile of output channels.

    Attributes:
        depth: channels that are summed over (of one group).
        blocks: vectors of `lanes` channels of the result.
        vectors: int32 vectors of output channels of one register tile.
        columns: pixels of one register tile.
        lanes: channels that are stored at once.
        spread: where results stand in the sink.
    """

    machine: Machine
    window: Window
    source: Strides
    sink: Strides
    depth: int
    blocks: int
    height: int
    width: int
    vectors: int
    columns: int
    lanes: int
    groups: int = 1
    expression: Expression = AS_IT_IS
    spread: Spread = EVERY_PIXEL

    @property
    def outputs(self) -> int:
        """Output channels of a register tile."""
        return self.vectors * self.machine.lanes

    @property
    def tile_count(self) -> int:
        """Register tiles along the output channels."""
        return -(-self.blocks * self.lanes // self.outputs)

    @property
    def parts(self) -> int:
        """How many parts the work has."""
        return self.tile_count * self.height

    @property
    def arrays(self) -> tuple[str, ...]:
        """Element types: source, weights, bias, M, sink, operands."""
        last = replace(self.machine, dtype="float32", lanes=self.lanes)
        own = (self.source.dtype(self.machine), "int8", "int32", "float32", self.sink.dtype(last))
        return (*own, *self.expression.dtypes(last))

    def build(self, name: str) -> Any:
        """The TIR function."""

        size = (self.height, self.width)
        return tiled_kernel(name, self.arrays, size, self.columns, self._tile)

    def _tile(self, arrays: Sequence[Array], at: tuple[Index, Index, Index], columns: int) -> None:
        source, weight, bias, *last = arrays
        by_output = self.machine.integers == "smlal"
        width = _QUAD if by_output else self.machine.lanes
        each = self.outputs if by_output else self.vectors
        sums = Registers(columns * each, width, "int32")
        start = at[0] * self.outputs
        for i in range(columns * each):
            sums[i] = (
                constant(0, "int32", width)
                if by_output
                else bias.vector(start + i % each * width, width)
            )
        self._sum(source, weight, at, sums, columns)
        if by_output:
            made = [self._gathered(sums, bias, start, k) for k in range(columns)]
        else:
            made = [[sums[k * each + v] for v in range(each)] for k in range(columns)]
        self._store(last, at, made)

    def _sum(
        self,
        source: Array,
        weight: Array,
        at: tuple[Index, Index, Index],
        sums: Registers,
        columns: int,
    ) -> None:
        tile, row, column = at
        window, (high, wide) = self.window, self.window.kernel
        whole, rest = divmod(self.depth, BLOCK)
        group = divide(tile, self.tile_count // self.groups)[0] if self.groups > 1 else 0
        corner = let(
            group * (self.depth // BLOCK * self.source.plane)
            + (row * window.stride[0] - window.pads[0]) * self.source.row
            + (column * window.stride[1] - window.pads[1]) * BLOCK
        )
        pixels = [k * window.stride[1] * BLOCK for k in range(columns)]
        size = BLOCK * self.outputs

        ways = {"sdot": self._sdot, "smlal": self._smlal, "vnni": self._vnni}
        how = ways.get(self.machine.integers, self._wide)

        def tap(c: Index, u: Index, v: Index, channels: int) -> None:
            at_pixel = let(
                corner
                + c * self.source.plane
                + u * (window.dilation[0] * self.source.row)
                + v * (window.dilation[1] * BLOCK)
            )
            number = (tile * -(-self.depth // BLOCK) + c) * (high * wide) + u * wide + v
            at_pixels = [at_pixel + p for p in pixels]
            how(_Tap(source, weight, let(number * size), at_pixels, sums, channels))

        # Where sdot has few channels to sum over, LLVM does better by itself.
        unrolled = wide <= _UNROLLED and (self.machine.integers != "sdot" or whole > _FEW)

        def taps(c: Index, channels: int) -> None:
            with loop(0, high) as u:
                if unrolled:
                    for v in range(wide):
                        tap(c, u, v, channels)
                else:
                    with loop(0, wide) as v:
                        tap(c, u, v, channels)

        if whole:
            with loop(0, whole) as c:
                taps(c, BLOCK)
        if rest:
            taps(whole, rest)

    def _sdot(self, tap: _Tap) -> None:
        values = [bits(self._signed(tap.source, p), "int32", _QUAD) for p in tap.pixels]
        for g in range(-(-tap.channels // _GROUP)):
            for v in range(self.vectors):
                w = let(tap.weight.vector(tap.at_weight + (g * self.vectors + v) * BLOCK, BLOCK))
                for k, value in enumerate(values):
                    x = bits(repeat(lane(value, g), _QUAD), "int8", BLOCK)
                    i = k * self.vectors + v
                    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
                    tap.sums[i] = intrinsic(name, "int32", _QUAD, tap.sums[i], w, x)

    def _vnni(self, tap: _Tap) -> None:
        lanes, is_signed = self.machine.lanes, tap.source.dtype == "int8"
        size = lanes * _GROUP
        name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
        for g in range(-(-tap.channels // _GROUP)):
            at = tap.at_weight + g * self.vectors * size
            ws = [let(tap.weight.vector(at + v * size, size)) for v in range(self.vectors)]
            for k, pixel in enumerate(tap.pixels):
                four = bits(tap.source.vector(pixel + g * _GROUP, _GROUP), "int32", 1)
                x = repeat(four, lanes)
                if is_signed:
                    x = x ^ constant(_FLIPS, "int32", lanes)
                x = let(bits(x, "uint8", size))
                for v, w in enumerate(ws):
                    i = k * self.vectors + v
                    tap.sums[i] = intrinsic(name, "int32", lanes, tap.sums[i], x, w)

    def _smlal(self, tap: _Tap) -> None:
        half = BLOCK // 2
        values = [self._signed(tap.source, p) for p in tap.pixels]

        def product(a: Value, b: Value, first: int) -> Value:
            ends = (piece(a, first, half), piece(b, first, half))
            return intrinsic("llvm.aarch64.neon.smull.v8i16", "int16", half, *ends)

        for o in range(self.outputs):
            w = let(tap.weight.vector(tap.at_weight + o * BLOCK, BLOCK))
            for k, x in enumerate(values):
                two = product(x, w, 0)
                if tap.channels > half:
                    two = two + product(x, w, half)
                pairs = intrinsic("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32", _QUAD, two)
                tap.sums[k * self.outputs + o] += pairs

    def _wide(self, tap: _Tap) -> None:
        lanes = self.machine.lanes
        for c in range(tap.channels):
            at = tap.at_weight + c * self.outputs
            ws = [
                let(cast(tap.weight.vector(at + v * lanes, lanes), "int32", lanes))
                for v in range(self.vectors)
            ]
            for k, pixel in enumerate(tap.pixels):
                value = let(repeat(cast(tap.source.scalar(pixel + c), "int32", 1), lanes))
                for v, w in enumerate(ws):
                    tap.sums[k * self.vectors + v] += value * w

    def _signed(self, source: Array, at: Index) -> Value:
        """A pixel's block as signed bytes."""
        value = source.vector(at, BLOCK)
        if source.dtype == "uint8":
            value = bits(value, "int32", _QUAD) ^ constant(_FLIPS, "int32", _QUAD)
            value = bits(value, "int8", BLOCK)
        return let(value)

    def _gathered(self, sums: Registers, bias: Array, start: Index, column: int) -> list[Value]:
        """One sum per output from four partial ones, in vectors."""

        def paired(a: Value, b: Value) -> Value:
            return let(intrinsic("llvm.aarch64.neon.addp.v4i32", "int32", _QUAD, a, b))

        found = []
        for o in range(0, self.outputs, _QUAD):
            a, b, c, d = (sums[column * self.outputs + o + i] for i in range(_QUAD))
            total = paired(paired(a, b), paired(c, d))
            found.append(let(total + bias.vector(start + o, _QUAD)))
        return found

    def _store(
        self, arrays: Sequence[Array], at: tuple[Index, Index, Index], made: list[list[Value]]
    ) -> None:
        scale, sink, *operands = arrays
        (tile, row, column), lanes = at, self.lanes
        last = replace(self.machine, dtype="float32", lanes=lanes)
        count = self.outputs // lanes
        for e in range(count):
            block = let(tile * count + e)
            exists = True if self.blocks % count == 0 else block < self.blocks
            with when(exists):
                factors = let(scale.vector(block * lanes, lanes))
                _, line, first = self.spread.at((block, row, column))
                step, apart = self.sink.step(lanes), self.spread.step[1]
                to = let(self.sink.at(block, line, lanes) + first * step)
                for k, vectors in enumerate(made):
                    value = cast(joined(vectors, e * lanes, lanes), "float32", lanes) * factors
                    place = (block, line, first + k * apart)
                    value = self.expression.value(let(value), operands, place, last)
                    self.sink.write(sink, to + k * apart * step, value, lanes)
