"""What kernels take, by the model that chooses between them: cycles of one core.

Products are counted by `choose.py` and `choose_int8.py`; everything else by the vector instructions a
result needs. This is for comparing programs for one processor with each other, in float and in integers:
what no program does without, such as calls and caches' first misses, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from graphopt.runtime.kernels.between import Interpolate
from graphopt.runtime.kernels.blocking import Block, Unblock
from graphopt.runtime.kernels.channel_softmax import ChannelSoftmax
from graphopt.runtime.kernels.channels_last import BlockPixels, UnblockPixels
from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv, Window, tiles
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.depthwise_int8 import IntegerDepthwise
from graphopt.runtime.kernels.grid import Grid
from graphopt.runtime.kernels.movement import (
    ClearBorder,
    ClearChannels,
    CopyChannels,
    Enlarge,
    PadPlain,
)
from graphopt.runtime.kernels.pick import PickChannels
from graphopt.runtime.kernels.pointwise import Expression, Pointwise, Strides
from graphopt.runtime.kernels.pool import ImagePool, WindowPool
from graphopt.runtime.kernels.rows_product import RowsProduct
from graphopt.runtime.kernels.rows_softmax import RowsSoftmax
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.kernels.winograd import WinogradInput, WinogradOutput
from graphopt.runtime.lower import choose, choose_int8
from graphopt.runtime.lower.program import Kernel

# Vector instructions, for a register of float32.
_READ = 3.0  # an integer becomes a number: widened (by halves of two), converted, scaled
_WRITE = 5.0  # a number becomes an integer: scaled, bounded twice, rounded, narrowed
_OPERATORS = {
    **dict.fromkeys(("Constant", "Identity"), 0.0),
    **dict.fromkeys(("Add", "Sub", "Mul", "Min", "Max", "Relu", "Abs", "Neg"), 1.0),
    **dict.fromkeys(("LeakyRelu", "Clip", "Floor", "Ceil"), 2.0),
    **dict.fromkeys(("PRelu", "HardSigmoid", "HardSwish"), 4.0),
}
_FUSED = 2.0  # more for a quotient that is exact
_DIVIDE = {
    1: 28.0
}  # by vector multiply-accumulates a cycle: Cortex-A57 divides half a register at once
_DIVIDE_ELSE = 12.0
_POLYNOMIAL = 20.0  # what exp and all that is made of it takes
# Counted: moving what smull leaves to where it is added up is in nobody's way alone, and in all.
_PAIRWISE = 1.12
_SCALAR = 2.5  # cycles of an element that is moved alone
_SOFTMAX = 2.0 + _POLYNOMIAL + 3.0 + 3.0  # the largest; e^x and the sum; the shares
_TURN = 2.0  # cycles of one turn of a loop beside its vector instructions
# Of the time memory takes; the rest is hidden behind the work by a prefetcher. `choose.py` counts all of
# it, which makes its weights small; here it would call all that has small weights fast.
_SEEN = 0.5


def cycles(kernel: Kernel, parts: int, machine: Machine) -> float:
    """What so many parts of a kernel are predicted to take; 0 for one of TVM's.

    Args:
        kernel: of a step.
        parts: how many of its parts the step computes.
        machine: the processor, its vectors of float32.
    """
    count = _COUNTS.get(type(kernel))
    if count is None:
        return 0.0
    return count(kernel, machine) * parts / max(1, getattr(kernel, "parts", 1))


# --- products: whole kernels -------------------------------------------------------------------------


def _seen(machine: Machine) -> Machine:
    """The machine with memory as fast as it looks."""
    return replace(machine, bytes_per_cycle=machine.bytes_per_cycle / _SEEN)


def _direct(kernel: DirectConv, _: Machine) -> float:
    own, size = _seen(kernel.machine), (kernel.height, kernel.width)
    way = choose.Direct(kernel.vectors, kernel.columns, 0.0)
    if kernel.plain:
        made = (kernel.blocks * own.lanes, *size)
        rows = kernel.depth * kernel.window.kernel[0]
        tile = (kernel.vectors, kernel.columns)
        return rows * choose.plain_cycles(own, kernel.window, tile, made)
    return choose.direct_cycles(own, kernel.window, way, kernel.depth, kernel.blocks, size)


def _winograd(kernel: WinogradOutput, _: Machine) -> float:
    """With the transforms of its input, strip by strip."""
    tiling = kernel.tiling
    way = choose.Winograd(tiling.m, kernel.vectors, kernel.columns, tiling.strip, 0.0)
    own = _seen(kernel.machine)
    whole = choose.winograd_cycles(own, way, kernel.depth, kernel.blocks, tiling.count)
    return whole / tiling.strips


def _integer(kernel: IntegerConv, _: Machine) -> float:
    tile = choose_int8.Tile(kernel.vectors, kernel.columns)
    out = kernel.blocks * kernel.lanes
    size, window = (kernel.height, kernel.width), kernel.window
    work = choose_int8.cycles(kernel.machine, window, kernel.depth, out, size, tile)
    weight = out * kernel.depth * window.kernel[0] * window.kernel[1]
    if kernel.machine.integers == "smlal":
        work *= _PAIRWISE
    return work + choose.fetch(_seen(kernel.machine), weight)


def _depthwise(kernel: DepthwiseConv, _: Machine) -> float:
    own, (high, wide) = kernel.machine, kernel.window.kernel

    def tile(columns: int) -> float:
        loads = high * (_reached(kernel.window, columns) + wide) / own.loads
        waits = high * wide * own.latency / columns if columns < own.latency else 0.0
        return max(columns * high * wide / own.products, loads, waits) + _TURN

    return _rows(kernel.parts, kernel.width, kernel.columns, tile)


def _integer_depthwise(kernel: IntegerDepthwise, machine: Machine) -> float:
    """Sixteen products are two instructions, and as many to add them up where they are not paired."""
    taps = kernel.window.kernel[0] * kernel.window.kernel[1]
    pairs = -(-taps // 2) if kernel.paired else taps
    vectors = 16 / machine.lanes

    def tile(columns: int) -> float:
        each = (2 * taps + pairs * vectors + vectors * _WRITE) / machine.products
        return columns * each + _TURN

    return _rows(kernel.parts, kernel.width, kernel.columns, tile)


def _rows_product(kernel: RowsProduct, _: Machine) -> float:
    own, tile = kernel.machine, (kernel.vectors, kernel.high)
    each = choose.rows_product_cycles(own, kernel.rows, kernel.columns, tile)
    return kernel.batch * kernel.depth / own.lanes * each


def _reached(window: Window, columns: int) -> int:
    """Different columns that a tile reads."""
    return len(
        {
            k * window.stride[1] + v * window.dilation[1]
            for k in range(columns)
            for v in range(window.kernel[1])
        }
    )


def _rows(parts: int, width: int, columns: int, tile: Callable[[int], float]) -> float:
    return parts * sum(count * tile(each) for _, count, each in tiles(width, columns))


# --- everything else: instructions for each vector -------------------------------------------------


def _registers(kernel: Any, machine: Machine) -> float:
    """Registers that one of the kernel's vectors takes while it is computed with."""
    own = kernel.machine
    bits = {"int8": 1, "uint8": 1}.get(own.dtype, own.width)
    return max(1.0, own.lanes * bits / (machine.lanes * 4))


def _read(strides: Strides) -> float:
    return _READ if isinstance(strides.grid, Grid) else 1.0


def _written(strides: Strides, machine: Machine) -> float:
    if not isinstance(strides.grid, Grid):
        return 1.0
    if strides.grid.quotient == "division":
        return _WRITE + _DIVIDE.get(machine.products, _DIVIDE_ELSE)
    return _WRITE + (_FUSED if strides.grid.quotient == "fused" else 0.0)


def _computed(expression: Expression) -> float:
    steps = sum(_OPERATORS.get(s.op, _POLYNOMIAL) for s in expression.steps)
    return steps + sum(_read(o.strides) for o in expression.operands if o.kind == "image")


def _pointwise(kernel: Pointwise, machine: Machine) -> float:
    each = _read(kernel.source) + _computed(kernel.expression) + _written(kernel.sink, machine)
    return _vectors(kernel, machine, kernel.parts * kernel.width, each)


def _enlarged(kernel: Enlarge, machine: Machine) -> float:
    pixels = kernel.parts * kernel.width
    each = _read(kernel.source) / kernel.factors[1] + _computed(kernel.expression)
    return _vectors(kernel, machine, pixels, each + _written(kernel.sink, machine))


def _window_pool(kernel: WindowPool, machine: Machine) -> float:
    high, wide = kernel.window.kernel
    reads = _reached(kernel.window, kernel.columns) / kernel.columns * _read(kernel.source)
    each = high * (reads + wide) + _computed(kernel.expression) + _written(kernel.sink, machine)
    return _vectors(kernel, machine, kernel.parts * kernel.width, each)


def _image_pool(kernel: ImagePool, machine: Machine) -> float:
    pixels = kernel.parts * kernel.image[0] * kernel.image[1]
    return _vectors(kernel, machine, pixels, _read(kernel.source) + 1)


def _vectors(kernel: Any, machine: Machine, count: int, each: float) -> float:
    return count * each * _registers(kernel, machine) / machine.products


def _copied(kernel: CopyChannels | ClearChannels, _: Machine) -> float:
    return kernel.parts * kernel.width * _SCALAR


def _picked(kernel: PickChannels, _: Machine) -> float:
    # A load and a store for each element; the places are known for a whole row.
    return kernel.parts * kernel.width * kernel.machine.lanes * 1.0


def _padded(kernel: PadPlain, _: Machine) -> float:
    return kernel.parts * kernel.width * 1.0


def _bordered(kernel: ClearBorder, _: Machine) -> float:
    rows = kernel.top + kernel.bottom
    return float(kernel.parts * (rows * (kernel.width + kernel.gap) + kernel.height * kernel.gap))


def _turned(kernel: Block | Unblock, machine: Machine) -> float:
    """A square of lanes x lanes: loads, rounds of interleaving, stores."""
    lanes = kernel.machine.lanes
    stored = _written(kernel.sink, machine) - 1.0 if isinstance(kernel, Block) else 0.0
    each = lanes * (1 + lanes.bit_length() + stored)
    return kernel.parts * -(-kernel.width // lanes) * each / kernel.machine.products


def _moved(kernel: BlockPixels | UnblockPixels, machine: Machine) -> float:
    """A load and a store."""
    return _vectors(kernel, machine, kernel.parts * kernel.width, 2.0)


def _softmax(kernel: RowsSoftmax, machine: Machine) -> float:
    count = kernel.rows * -(-kernel.columns // kernel.machine.lanes)
    return _vectors(kernel, machine, count, _SOFTMAX)


def _channel_softmax(kernel: ChannelSoftmax, machine: Machine) -> float:
    """As of rows; and the lanes of the largest and of the sum are joined one by one."""
    lanes = kernel.machine.lanes
    each = -(-kernel.channels // lanes) * _SOFTMAX
    return _vectors(kernel, machine, kernel.height * kernel.width, each) + (
        kernel.height * kernel.width * lanes * _SCALAR
    )


def _interpolated(kernel: Interpolate, machine: Machine) -> float:
    """Four pixels and three sums of shares; looking up where they are takes as long as a load each."""
    each = 4 * _read(kernel.source) + 6.0 + 3.0 + _computed(kernel.expression)
    return _vectors(
        kernel, machine, kernel.parts * kernel.width, each + _written(kernel.sink, machine)
    )


_COUNTS: dict[type, Callable[[Any, Machine], float]] = {
    DirectConv: _direct,
    WinogradOutput: _winograd,
    WinogradInput: lambda kernel, machine: 0.0,  # noqa: ARG005
    DepthwiseConv: _depthwise,
    IntegerConv: _integer,
    IntegerDepthwise: _integer_depthwise,
    Pointwise: _pointwise,
    Enlarge: _enlarged,
    WindowPool: _window_pool,
    ImagePool: _image_pool,
    CopyChannels: _copied,
    PickChannels: _picked,
    ClearChannels: _copied,
    PadPlain: _padded,
    ClearBorder: _bordered,
    Block: _turned,
    Unblock: _turned,
    BlockPixels: _moved,
    UnblockPixels: _moved,
    RowsProduct: _rows_product,
    RowsSoftmax: _softmax,
    ChannelSoftmax: _channel_softmax,
    Interpolate: _interpolated,
}
