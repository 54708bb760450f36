"""Plans transposed convolutions of numbers: the direct kernels of their phases, which share one sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Node
from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv
from graphopt.runtime.lower import choose, weights
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.groups import groups_of, joined
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of
from graphopt.runtime.lower.phases import Phase, is_depthwise, phases
from graphopt.runtime.lower.plan_products import packed_bias
from graphopt.runtime.lower.program import Place


@dataclass(frozen=True)
class _Part:
    """A phase with its register tile, weights and bias."""

    phase: Phase
    vectors: int
    columns: int
    weight: Place
    bias: Place


def plan_transposed(lowering: Lowering, region: Region) -> None:
    node = region.first
    source = lowering.image(node.inputs[0])
    expression, operands = lowering.expression(region)
    sink = lowering.sink(region)
    prepare = _depthwise_part if is_depthwise(node) else _part
    parts = [prepare(lowering, node, sink, p, source) for p in phases(node)]
    for part in parts:
        part.phase.reach(source)

    def emit() -> None:
        lowering.write(sink)
        build = _depthwise if is_depthwise(node) else _direct
        for part in parts:
            kernel = build(lowering, part, source, sink, expression())
            places = (source.place, part.weight, part.bias, sink.place, *operands())
            macs = macs_of(region) // len(parts)
            lowering.step(kernel, places, kernel.parts, what_of(region), macs=macs)

    lowering.later(emit)


def _part(lowering: Lowering, node: Node, sink: Image, phase: Phase, source: Image) -> _Part:
    machine, weight, groups = lowering.machine, node.inputs[1], groups_of(node)
    depth, blocks = source.blocks, sink.vectors(machine.lanes)
    tile = choose.direct(machine, phase.window, depth, blocks, phase.size)

    def packed() -> Any:
        # A filter of (C, O / groups) is one of a convolution that goes the other way.
        whole = joined(weight.values, groups, groups).transpose(1, 0, 2, 3)
        return lowering.typed(weights.direct(phase.of(whole), machine.lanes, tile.vectors))

    key = ("phase", id(weight), groups, phase.taps, tile.vectors)
    place = lowering.constant(key, packed, weight)
    bias = packed_bias(lowering, node, sink, tile.vectors)
    return _Part(phase, tile.vectors, tile.columns, place, bias)


def _depthwise_part(
    lowering: Lowering, node: Node, sink: Image, phase: Phase, source: Image
) -> _Part:
    del source
    machine, weight = lowering.machine, node.inputs[1]

    def packed() -> Any:
        return lowering.typed(weights.depthwise(phase.of(weight.values), machine.lanes))

    place = lowering.constant(("phase", id(weight), phase.taps), packed, weight)
    columns = choose.depthwise_columns(machine, phase.window)
    return _Part(phase, 1, columns, place, packed_bias(lowering, node, sink, 1))


def _direct(lowering: Lowering, part: _Part, source: Image, sink: Image, text: Any) -> DirectConv:
    return DirectConv(
        lowering.machine,
        part.phase.window,
        source.strides,
        sink.strides,
        source.blocks,
        sink.vectors(lowering.machine.lanes),
        *part.phase.size,
        part.vectors,
        part.columns,
        expression=text,
        spread=part.phase.spread,
    )


def _depthwise(
    lowering: Lowering, part: _Part, source: Image, sink: Image, text: Any
) -> DepthwiseConv:
    return DepthwiseConv(
        lowering.machine,
        part.phase.window,
        source.strides,
        sink.strides,
        sink.vectors(lowering.machine.lanes),
        *part.phase.size,
        part.columns,
        expression=text,
        spread=part.phase.spread,
    )
