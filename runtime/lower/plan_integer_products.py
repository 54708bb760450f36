"""Plans products of integers: convolutions, plain and transposed, and depthwise ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Node, is_op, label
from graphopt.runtime.kernels.conv import EVERY_PIXEL, Spread, Window
from graphopt.runtime.kernels.conv_int8 import BLOCK, IntegerConv
from graphopt.runtime.kernels.depthwise_int8 import IntegerDepthwise
from graphopt.runtime.kernels.movement import ClearChannels
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower import choose_int8, weights
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.groups import groups_of, joined, together
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import window_of
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of
from graphopt.runtime.lower.phases import phases
from graphopt.runtime.lower.plan_products import reach
from graphopt.runtime.lower.program import Place
from graphopt.runtime.lower.quantized import Product
from graphopt.runtime.lower.units import Ending, ending

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class _Part:
    """A plain convolution: the whole of one, or a phase of a transposed one."""

    number: int
    window: Window
    product: Product
    size: tuple[int, int]
    spread: Spread = EVERY_PIXEL


def plan_integer_conv(lowering: Lowering, region: Region, product: Product) -> None:
    """A convolution of integers."""
    node, source = region.first, lowering.stored(region.first.inputs[0])
    product, groups = _in_blocks(product, groups_of(node))
    sink = lowering.sink(region)
    parts = _parts(node, product, source, sink)
    emits = [_planned(lowering, region, part, groups, source, sink) for part in parts]

    def emit() -> None:
        for each in emits:
            each(len(parts))

    lowering.later(emit)


def _in_blocks(product: Product, groups: int) -> tuple[Product, int]:
    """The product with groups that fill whole blocks of channels, and how many there are."""
    outputs, inputs = product.weight.shape[:2]
    count = together(groups, inputs, outputs // groups, BLOCK)
    weight = joined(product.weight, groups, count)
    return replace(product, weight=weight), groups // count


def _parts(node: Node, product: Product, source: Image, sink: Image) -> list[_Part]:
    """The plain convolutions a node is made of; the source's border is made wide enough."""
    if not is_op(node, "ConvTranspose"):
        window, size = window_of(node), (sink.height, sink.width)
        assert window is not None
        reach(node, window, source, size)
        return [_Part(0, window, product, size)]
    found = []
    for i, phase in enumerate(phases(node)):
        phase.reach(source)
        own = replace(product, weight=phase.of(product.weight))
        found.append(_Part(i, phase.window, own, phase.size, phase.spread))
    return found


def _planned(
    lowering: Lowering, region: Region, part: _Part, groups: int, source: Image, sink: Image
) -> Callable[[int], None]:
    """What writes the step of a part, once it is told how many parts there are."""
    node, product, machine = region.first, part.product, _machine(lowering, part.product)
    assert source.grid is not None
    out, depth = product.weight.shape[:2]
    tile = choose_int8.conv(machine, part.window, depth, out, part.size, groups)
    outputs = tile.vectors * machine.lanes
    own = ending(lowering, region, node.outputs[0], sink, outputs)
    packed = lowering.constant(
        ("integers", id(node), part.number, tile.vectors),
        lambda: weights.INTEGERS[machine.integers](product.weight, machine.lanes, tile.vectors),
        node,
    )
    shift = weights.shift(machine.integers, source.grid.dtype)
    how = shift, -(-out // outputs) * outputs
    bias, scale = _sums(lowering, node, product, source, own, how)

    def emit(count: int) -> None:
        kernel = IntegerConv(
            machine,
            part.window,
            source.strides,
            own.written(sink.wide),
            depth,
            sink.vectors(own.lanes),
            *part.size,
            tile.vectors,
            tile.columns,
            own.lanes,
            groups,
            own.expression(),
            part.spread,
        )
        if part.number == 0:
            _clear_beyond(lowering, region, sink, own)
        places = (source.place, packed, bias, scale)
        emit_integers(lowering, region, kernel, sink, places, own, share=count)

    return emit


def _machine(lowering: Lowering, product: Product) -> Machine:
    """What multiplies: two products of -128 would not fit what smull's are added in."""
    machine = lowering.plain_machine
    if machine.integers == "smlal" and product.weight.min(initial=0) < -127:
        return replace(machine, integers="wide")
    return machine


def _clear_beyond(lowering: Lowering, region: Region, sink: Image, own: Ending) -> None:
    """Zeros in lanes that no vector of results reaches: readers in float multiply them, by 0."""
    beyond = sink.blocks * sink.lanes - sink.channels
    if sink.grid is None and beyond and own.lanes < sink.lanes:
        size = (sink.height, sink.width)
        clear = ClearChannels(lowering.machine, sink.strides, sink.channels, beyond, *size)
        lowering.step(clear, (sink.place,), clear.parts, what_of(region))


def plan_integer_depthwise(lowering: Lowering, region: Region, product: Product) -> None:
    """A depthwise convolution of integers."""
    node, machine = region.first, lowering.plain_machine
    window, source = window_of(node), lowering.stored(node.inputs[0])
    assert window is not None
    assert source.grid is not None
    sink = lowering.sink(region)
    reach(node, window, source, (sink.height, sink.width))
    own = ending(lowering, region, node.outputs[0], sink, BLOCK)
    packed = lowering.constant(
        ("integers", id(node)),
        lambda: weights.depthwise(product.weight, BLOCK).astype(np.int8),
        node,
    )
    bias, scale = _sums(lowering, node, product, source, own, (0, source.blocks * BLOCK))
    paired = source.grid.dtype == "int8" and product.weight.min() > -128

    def emit() -> None:
        kernel = IntegerDepthwise(
            machine,
            window,
            source.strides,
            own.written(sink.wide),
            sink.vectors(own.lanes),
            sink.height,
            sink.width,
            choose_int8.depthwise_columns(machine),
            own.lanes,
            paired,
            own.expression(),
        )
        emit_integers(lowering, region, kernel, sink, (source.place, packed, bias, scale), own)

    lowering.later(emit)


def _sums(
    lowering: Lowering,
    node: Node,
    product: Product,
    source: Image,
    own: Ending,
    how: tuple[int, int],
) -> tuple[Place, Place]:
    """The bias with the source's zero point in it, and what sums are multiplied by."""
    grid, (shift, length) = source.grid, how
    assert grid is not None
    totals = product.weight.astype(np.int64).reshape(len(product.weight), -1).sum(1)
    bias = product.steps(grid.scale) - (grid.zero - shift) * totals
    if bias.max(initial=0) > _INT32.max or bias.min(initial=0) < _INT32.min:
        raise UnsupportedError(f"{label(node)}: its bias with the zero point does not fit 32 bits")
    scale = np.float32(grid.scale) * product.scale
    if own.unit != 1.0:
        scale = scale / np.float32(own.unit)
    first = lowering.program.constant(weights.padded(bias.astype(np.int32), 0, length))
    return first, lowering.program.constant(weights.channels(scale, length))


def emit_integers(
    lowering: Lowering,
    region: Region,
    kernel: Any,
    sink: Image,
    places: tuple[Place, ...],
    own: Ending,
    *,
    share: int = 1,
) -> None:
    """Writes the step of a kernel that ends in `own`; one of `share` of the region's products."""
    lowering.write(sink)
    every = (*places, sink.place, *own.places())
    macs = macs_of(region) // share
    lowering.step(kernel, every, kernel.parts, what_of(region), macs=macs)
