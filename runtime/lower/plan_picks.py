"""Plans copies of channels: shuffles, pieces that begin inside a channel block, zeros around an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_value
from graphopt.runtime.kernels.movement import ClearChannels
from graphopt.runtime.kernels.pick import PickChannels
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.lower.cpu_layout import pads_of_channels
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.lowering import Lowering, what_of
from graphopt.runtime.lower.plan_images import copy_channels

Values = np.ndarray[Any, Any]


def plan_pick(lowering: Lowering, region: Region) -> None:
    """A Gather of channels of an image of numbers."""
    source = lowering.image(region.first.inputs[0])
    _picked(lowering, region, source, lowering.make_image(region.out))


def plan_integer_pick(lowering: Lowering, region: Region) -> bool:
    """The same of an image of integers: bytes move, the grid stays."""
    source = lowering.stored(region.first.inputs[0])
    if source.grid is None:
        return False
    sink = lowering.new_image(region.out, source.grid)
    lowering.set_image(region.out, sink)
    _picked(lowering, region, source, sink)
    return True


def _picked(lowering: Lowering, region: Region, source: Image, sink: Image) -> None:
    picks = picks_of(region.first, source.channels)
    first = int(picks[0])
    if first % sink.lanes == 0 and np.array_equal(picks, first + np.arange(len(picks))):
        sink.lie_in(source, first // sink.lanes)
        return
    lowering.later(_copier(lowering, region, source, sink, picks))


def picks_of(node: Node, channels: int) -> Values:
    """Which channels a Gather takes."""
    indices = input_value(node, 1)
    assert indices is not None
    return np.asarray(indices.reshape(-1) % channels, np.int64)


def _copier(
    lowering: Lowering, region: Region, source: Image, sink: Image, picks: Values
) -> Callable[[], None]:
    def emit() -> None:
        machine = replace(lowering.plain_machine, lanes=sink.lanes, dtype=sink.dtype)
        given, made = (Strides(i.strides.row, i.strides.plane) for i in (source, sink))
        # Lanes beyond the last channel hold numbers, too, whatever they are.
        full = np.resize(picks, sink.blocks * sink.lanes)
        offsets = full // source.lanes * source.strides.plane + full % source.lanes
        key = ("picks", id(region.first))
        table = lowering.constant(key, lambda: offsets.astype(np.int32), region.first)
        kernel = PickChannels(machine, given, made, sink.blocks, sink.height, sink.width)
        lowering.write(sink)
        places = (source.place, table, sink.place)
        lowering.step(kernel, places, kernel.parts, what_of(region))

    return emit


def plan_pad(lowering: Lowering, region: Region) -> None:
    """Channels of zeros before and behind; the image lies between them, or is copied there."""
    node, lanes = region.first, lowering.machine.lanes
    before, behind = pads_of_channels(node) or (0, 0)
    source, sink = lowering.image(node.inputs[0]), lowering.make_image(region.out)
    is_whole = before % lanes == 0 and (source.channels % lanes == 0 or behind == 0)
    inside = is_whole and source.is_root
    if inside:
        source.lie_in(sink, before // lanes)

    def emit() -> None:
        lowering.write(sink)
        last = before + source.channels
        for first, count in ((0, before), (last, sink.blocks * lanes - last)):
            if count:
                _clear(lowering, region, sink, first, count)
        if not inside:
            copy_channels(lowering, source, sink, before, what_of(region))

    lowering.later(emit)


def _clear(lowering: Lowering, region: Region, sink: Image, first: int, count: int) -> None:
    size = (sink.height, sink.width)
    clear = ClearChannels(lowering.machine, sink.strides, first, count, *size)
    lowering.step(clear, (sink.place,), clear.parts, what_of(region))
