"""Plans what goes over images without products: pools, enlarging, elementwise operators, pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from graphopt.ir.graph import Node, is_op
from graphopt.runtime.kernels.between import Interpolate
from graphopt.runtime.kernels.channel_softmax import ChannelSoftmax
from graphopt.runtime.kernels.movement import ClearChannels, CopyChannels, Enlarge
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.kernels.pool import ImagePool, WindowPool
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.interpolation import interpolation
from graphopt.runtime.lower.layout import counts_inside, window_of
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of
from graphopt.runtime.lower.plan_products import reach
from graphopt.runtime.lower.program import Place

# Pixels of one register tile of a pool.
_POOL_COLUMNS = 4


@dataclass(frozen=True)
class _Simple:
    """Plans a kernel with one source image and one sink."""

    kernel: Callable[[Node, Lowering, Image, Image, Any], Any]

    def __call__(self, lowering: Lowering, region: Region) -> None:
        node = region.first
        elementwise = bool(region.nodes) and region.nodes[0] is node
        taken = lowering.main_input(node) if elementwise else node.inputs[0]
        source = lowering.image(taken)
        expression, operands = lowering.expression(region)
        sink = lowering.make_image(region.out)
        reach_of_mean(node, source, sink)

        def emit() -> None:
            kernel = self.kernel(node, lowering, source, sink, expression())
            lowering.write(sink)
            places = (source.place, sink.place, *operands())
            lowering.step(kernel, places, kernel.parts, what_of(region), macs=macs_of(region))

        lowering.later(emit)


def reach_of_mean(node: Node, source: Image, sink: Image) -> None:
    """Covers the border that the windows of a mean reach into; a maximum needs none."""
    window = window_of(node) if is_op(node, "AveragePool") else None
    if window is not None:
        reach(node, window, source, (sink.height, sink.width))


def _window_pool(
    node: Node, lowering: Lowering, source: Image, sink: Image, text: Any
) -> WindowPool:
    window = window_of(node)
    assert window is not None
    kind: Literal["max", "mean"] = "max" if node.op == "MaxPool" else "mean"
    image = (source.height, source.width)
    return WindowPool(
        lowering.machine,
        kind,
        window,
        source.strides,
        sink.strides,
        sink.blocks,
        image,
        sink.height,
        sink.width,
        _POOL_COLUMNS,
        text,
        inside=counts_inside(node),
    )


def _image_pool(node: Node, lowering: Lowering, source: Image, sink: Image, text: Any) -> ImagePool:
    kind: Literal["max", "mean"] = "max" if node.op == "GlobalMaxPool" else "mean"
    image = (source.height, source.width)
    return ImagePool(lowering.machine, kind, source.strides, sink.strides, sink.blocks, image, text)


def _enlarged(_: Node, lowering: Lowering, source: Image, sink: Image, text: Any) -> Enlarge:
    factors = (sink.height // source.height, sink.width // source.width)
    return Enlarge(
        lowering.machine,
        source.strides,
        sink.strides,
        sink.blocks,
        sink.height,
        sink.width,
        factors,
        text,
    )


def _elementwise(_: Node, lowering: Lowering, source: Image, sink: Image, text: Any) -> Pointwise:
    return Pointwise(
        lowering.machine,
        source.strides,
        sink.strides,
        sink.blocks,
        sink.height,
        sink.width,
        text,
    )


plan_pool = _Simple(_window_pool)
plan_image_pool = _Simple(_image_pool)
plan_enlarge = _Simple(_enlarged)
plan_pointwise = _Simple(_elementwise)


def plan_interpolate(lowering: Lowering, region: Region) -> None:
    """A Resize: where its pixels lie is worked out now, once for all of the same sizes."""
    axes = interpolation(region.first)
    assert axes is not None
    source, machine = lowering.image(region.first.inputs[0]), lowering.machine
    expression, operands = lowering.expression(region)
    sink = lowering.sink(region)

    def table(column: int) -> Any:
        return np.concatenate([axis.neighbours()[column] for axis in axes])

    neighbours = lowering.constant(("neighbours", axes), lambda: table(0))
    shares = lowering.constant(("shares", axes), lambda: lowering.typed(table(1)))

    def emit() -> None:
        kernel = Interpolate(
            machine,
            source.strides,
            sink.strides,
            sink.vectors(machine.lanes),
            sink.height,
            sink.width,
            expression(),
        )
        lowering.write(sink)
        places = (source.place, neighbours, shares, sink.place, *operands())
        lowering.step(kernel, places, kernel.parts, what_of(region))

    lowering.later(emit)


def plan_channel_softmax(lowering: Lowering, region: Region) -> None:
    """A softmax over the channels of an image, computed in float32 whatever is stored."""
    source, sink = lowering.image(region.first.inputs[0]), lowering.make_image(region.out)
    machine = replace(lowering.plain_machine, lanes=min(lowering.plain_machine.lanes, source.lanes))

    def emit() -> None:
        size = (sink.channels, sink.height, sink.width)
        kernel = ChannelSoftmax(machine, source.wide, sink.wide, *size)
        lowering.write(sink)
        lowering.step(kernel, (source.place, sink.place), kernel.parts, what_of(region))

    lowering.later(emit)


def plan_concat(lowering: Lowering, region: Region) -> None:
    """Inputs that can lie in the result do, and cost nothing; others are copied."""
    node, lanes = region.first, lowering.machine.lanes
    sink = lowering.make_image(region.out)
    first = 0
    copies: list[tuple[Image, int]] = []
    for tensor in node.inputs:
        image = lowering.image(tensor)
        last = first + image.channels == sink.channels
        fits = first % lanes == 0 and (image.channels % lanes == 0 or last)
        if fits and image.is_root and not any(image is c for c, _ in copies) and image is not sink:
            image.lie_in(sink, first // lanes)
        else:
            copies.append((image, first))
        first += image.channels

    def emit() -> None:
        lowering.write(sink)
        beyond = sink.blocks * lanes - sink.channels
        if beyond and any(to + image.channels == sink.channels for image, to in copies):
            clear = ClearChannels(
                lowering.machine, sink.strides, sink.channels, beyond, sink.height, sink.width
            )
            lowering.step(clear, (sink.place,), clear.parts, what_of(region))
        for image, to in copies:
            copy_channels(lowering, image, sink, to, what_of(region))

    if copies:
        lowering.later(emit)


def copy_channels(lowering: Lowering, image: Image, sink: Image, to: int, what: str) -> None:
    """Copies an image to where channel `to` of another begins."""
    machine = lowering.machine
    if to % machine.lanes == 0 and image.channels % machine.lanes == 0:
        kernel: Any = Enlarge(
            machine,
            image.strides,
            sink.strides,
            image.blocks,
            image.height,
            image.width,
            (1, 1),
        )
        offset = to // machine.lanes * sink.strides.plane * sink.bytes
        place = Place(sink.place.of, sink.place.offset + offset)
    else:
        kernel = CopyChannels(
            machine,
            image.strides,
            sink.strides,
            0,
            to,
            image.channels,
            image.height,
            image.width,
        )
        place = sink.place
    lowering.step(kernel, (image.place, place), kernel.parts, what)


def plan_pieces(lowering: Lowering, region: Region) -> None:
    node, lanes = region.first, lowering.machine.lanes
    source = lowering.image(node.inputs[0])
    first = 0
    for tensor in node.outputs:
        piece = lowering.make_image(tensor)
        piece.lie_in(source, first // lanes)
        first += piece.channels
