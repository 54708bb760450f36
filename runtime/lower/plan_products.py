"""Plans products: convolutions, direct or Winograd's, depthwise ones, and dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_value
from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv, Window
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.winograd import Tiling, WinogradInput, WinogradOutput, WinogradWeight
from graphopt.runtime.lower import choose, weights
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.groups import filters_of
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import image_shape, pads_of, window_of
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of
from graphopt.runtime.lower.program import Memory, Place

# Inputs of the first layer: up to so many channels are read as they come.
_FEW_CHANNELS = 4


def _bias(node: Node, channels: int) -> Any:
    values = input_value(node, 2)
    return np.zeros(channels, np.float32) if values is None else values.reshape(-1)


def reach(node: Node, window: Window, image: Image, size: tuple[int, int]) -> None:
    """Covers the border a convolution's windows reach into."""
    top, left, _, _ = pads_of(node)
    (high, wide), (down, right), (tall, broad) = window.kernel, window.stride, window.dilation
    below = (size[0] - 1) * down + (high - 1) * tall + 1 - top - image.height
    beside = (size[1] - 1) * right + (wide - 1) * broad + 1 - left - image.width
    image.border.cover(top, max(0, below), left, max(0, beside))


def plan_conv(lowering: Lowering, region: Region) -> None:
    node, machine = region.first, lowering.machine
    window, made = window_of(node), image_shape(node.outputs[0])
    assert window is not None
    assert made is not None
    filters = filters_of(node, machine.lanes)
    channels, size = filters.channels, (made[1], made[2])
    if channels < min(machine.lanes, _FEW_CHANNELS + 1) and not lowering.has_image(node.inputs[0]):
        _direct(lowering, region, window, choose.direct_plain(machine, window, made), plain=True)
        return
    shape = choose.Shape(
        window, -(-channels // machine.lanes), -(-made[0] // machine.lanes), size, filters.groups
    )
    lowering.shapes.setdefault(shape, node)
    lowering.counts[shape] += 1
    how = lowering.tuned.get(shape) or choose.conv(machine, shape)
    if isinstance(how, choose.Winograd):
        _winograd(lowering, region, how)
    else:
        _direct(lowering, region, window, how, plain=False)


def _direct(
    lowering: Lowering, region: Region, window: Window, tile: choose.Direct, *, plain: bool
) -> None:
    node, machine = region.first, lowering.machine
    filters = filters_of(node, machine.lanes)
    source = (lowering.padded_plain if plain else lowering.image)(node.inputs[0])
    expression, operands = lowering.expression(region)
    sink = lowering.sink(region)
    reach(node, window, source, (sink.height, sink.width))
    pack = weights.plain if plain else weights.direct
    packed = lowering.constant(
        ("direct", id(filters.tensor), filters.groups, plain, tile.vectors),
        lambda: lowering.typed(pack(filters.values(), machine.lanes, tile.vectors)),
        filters.tensor,
    )
    bias = packed_bias(lowering, node, sink, tile.vectors)

    def emit() -> None:
        channels = filters.channels
        kernel = DirectConv(
            machine,
            window,
            source.strides,
            sink.strides,
            channels if plain else -(-channels // machine.lanes),
            sink.vectors(machine.lanes),
            sink.height,
            sink.width,
            tile.vectors,
            tile.columns,
            filters.groups,
            plain,
            expression(),
        )
        lowering.write(sink)
        places = (source.place, packed, bias, sink.place, *operands())
        lowering.step(kernel, places, kernel.parts, what_of(region), macs=macs_of(region))

    lowering.later(emit)


def packed_bias(lowering: Lowering, node: Node, sink: Image, vectors: int) -> Place:
    """The bias of a product, zeros where it has none, for whole register tiles."""
    lanes = lowering.machine.lanes
    length = -(-sink.vectors(lanes) // vectors) * vectors * lanes
    return lowering.constant(
        ("bias", id(node), length),
        lambda: lowering.typed(weights.channels(_bias(node, sink.channels), length)),
        node,
    )


def _winograd(lowering: Lowering, region: Region, how: choose.Winograd) -> None:
    node, machine = region.first, lowering.machine
    filters = filters_of(node, machine.lanes)
    source = lowering.image(node.inputs[0])
    expression, operands = lowering.expression(region)
    sink = lowering.sink(region)
    tiling = Tiling(how.m, sink.height, sink.width, how.strip)
    top, left, _, _ = pads_of(node)
    down = -(-sink.height // how.m) * how.m + 2 - top - source.height
    across = tiling.across * how.m + 2 - left - source.width
    source.border.cover(top, max(0, down), left, max(0, across))
    packed = lowering.constant(
        ("direct", id(filters.tensor), filters.groups, False, how.vectors),
        lambda: lowering.typed(weights.direct(filters.values(), machine.lanes, how.vectors)),
        filters.tensor,
    )
    transformed = lowering.prepared(
        WinogradWeight(
            machine,
            how.m,
            source.blocks,
            -(-sink.vectors(machine.lanes) // how.vectors),
            how.vectors,
        ),
        packed,
        filters.tensor.name,
    )
    bias = packed_bias(lowering, node, sink, how.vectors)

    def emit() -> None:
        first = WinogradInput(machine, tiling, source.strides, (top, left), source.blocks)
        second = WinogradOutput(
            machine,
            tiling,
            sink.strides,
            source.blocks,
            sink.vectors(machine.lanes),
            how.vectors,
            how.columns,
            expression(),
        )
        lowering.write(sink)
        given = Place(Memory(f"{region.out.name} transformed", first.scratch * machine.width))
        what, macs = what_of(region), macs_of(region)
        for strip in range(tiling.strips):
            lowering.step(
                first,
                (source.place, given),
                first.parts,
                f"{what} input",
                begin=strip * first.parts,
            )
            lowering.step(
                second,
                (given, transformed, bias, Place(None), sink.place, *operands()),
                second.parts,
                what,
                begin=strip * second.parts,
                macs=macs // tiling.strips,
                private=second.scratch * machine.width,
            )

    lowering.later(emit)


def plan_depthwise(lowering: Lowering, region: Region) -> None:
    node, machine = region.first, lowering.machine
    window, weight = window_of(node), node.inputs[1]
    assert window is not None
    source = lowering.image(node.inputs[0])
    expression, operands = lowering.expression(region)
    sink = lowering.sink(region)
    reach(node, window, source, (sink.height, sink.width))
    packed = lowering.constant(
        ("depthwise", id(weight)),
        lambda: lowering.typed(weights.depthwise(weight.values, machine.lanes)),
        weight,
    )
    bias = packed_bias(lowering, node, sink, 1)
    columns = choose.depthwise_columns(machine, window)

    def emit() -> None:
        kernel = DepthwiseConv(
            machine,
            window,
            source.strides,
            sink.strides,
            sink.vectors(machine.lanes),
            sink.height,
            sink.width,
            columns,
            expression(),
        )
        lowering.write(sink)
        places = (source.place, packed, bias, sink.place, *operands())
        lowering.step(kernel, places, kernel.parts, what_of(region), macs=macs_of(region))

    lowering.later(emit)


def plan_dense(lowering: Lowering, region: Region) -> None:
    """y = x W + b for one vector x: a 1x1 convolution of an image of one pixel."""
    node, machine = region.first, lowering.plain_machine
    weight, bias = _dense_weight(node)
    depth, length = weight.shape[1], weight.shape[0]
    source, sink = lowering.plain(node.inputs[0]), lowering.make_plain(node.outputs[0])
    vectors = choose.dense_vectors(machine)
    blocks = -(-length // machine.lanes)
    whole = depth % machine.lanes == 0
    pack = weights.direct if whole else weights.plain
    packed = lowering.constant(
        ("dense", id(node)), lambda: pack(weight[:, :, None, None], machine.lanes, vectors), node
    )
    padded = -(-blocks // vectors) * vectors * machine.lanes
    offsets = lowering.constant(("bias", id(node)), lambda: weights.channels(bias, padded), node)
    step = machine.lanes if whole else 1

    def emit() -> None:
        kernel = DirectConv(
            machine,
            Window((1, 1)),
            Strides(step, step),
            Strides(machine.lanes, machine.lanes),
            depth // step,
            blocks,
            1,
            1,
            vectors,
            1,
            plain=not whole,
        )
        places = (source, packed, offsets, sink)
        lowering.step(kernel, places, kernel.parts, what_of(region), macs=macs_of(region))

    lowering.later(emit)


def _dense_weight(node: Node) -> tuple[Any, Any]:
    weight, alpha = node.inputs[1].values, float(node.attrs.get("alpha", 1.0))
    weight = weight if node.op == "Gemm" and node.attrs.get("transB", 0) else weight.T
    bias = input_value(node, 2) if node.op == "Gemm" else None
    beta = float(node.attrs.get("beta", 1.0))
    offsets = np.zeros(1) if bias is None else bias.reshape(-1) * beta
    return weight * np.float32(alpha), np.broadcast_to(offsets, (weight.shape[0],))
