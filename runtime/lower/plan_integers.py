"""Plans what reads or writes images of integers: every kernel but the float ones that end in a rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from graphopt.ir.graph import Node, Tensor
from graphopt.runtime.kernels.conv_int8 import BLOCK
from graphopt.runtime.kernels.movement import Enlarge
from graphopt.runtime.kernels.pointwise import Pointwise, Strides
from graphopt.runtime.kernels.pool import ImagePool, WindowPool
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import counts_inside, window_of
from graphopt.runtime.lower.lowering import Lowering, what_of
from graphopt.runtime.lower.plan_images import reach_of_mean
from graphopt.runtime.lower.plan_integer_pieces import plan_join, plan_split
from graphopt.runtime.lower.plan_integer_products import (
    emit_integers,
    plan_integer_conv,
    plan_integer_depthwise,
)
from graphopt.runtime.lower.plan_picks import plan_integer_pick
from graphopt.runtime.lower.quantized import grid_of
from graphopt.runtime.lower.units import Ending, ending, ratio, rescaled

# Pixels of one register tile of a pool; a pixel is four registers where a register is 128 bits.
_POOL_COLUMNS = 2
_INT32 = np.iinfo(np.int32)


def plan_integers(lowering: Lowering, region: Region) -> bool:
    """Plans the region if it reads or writes integers and has a kernel for them."""
    node, kind = region.first, lowering.layout.kind(region.first)
    product = lowering.products.get(id(node))
    if kind in ("conv", "depthwise", "transposed"):
        if product is None or lowering.stored(node.inputs[0]).grid is None:
            return False
        planner = plan_integer_depthwise if kind == "depthwise" else plan_integer_conv
        planner(lowering, region, product)
        return True
    if kind in ("concat", "pieces"):
        return (plan_join if kind == "concat" else plan_split)(lowering, region)
    if kind == "pick":
        return plan_integer_pick(lowering, region)
    if kind in ("dense", "pad") or not (kind or region.nodes):
        return False
    main = lowering.main_input(node) if kind is None else node.inputs[0]
    source = lowering.stored(main)
    if source.grid is None and region.rounding is None and not _reads_integers(lowering, region):
        return False
    _simple(lowering, region, source, main)
    return True


def _reads_integers(lowering: Lowering, region: Region) -> bool:
    read = [t for n in region.nodes for t in n.inputs if lowering.has_image(t)]
    return any(lowering.stored(t).grid is not None for t in read)


# --- one image to another ------------------------------------------------------------------------


def _simple(lowering: Lowering, region: Region, source: Image, main: Tensor) -> None:
    node = region.first
    rounding = None if region.rounding is None else grid_of(region.rounding)
    moves = node.op in ("MaxPool", "GlobalMaxPool", "Resize") and not region.nodes
    if moves and source.grid is not None and rounding in (None, source.grid):
        _moved(lowering, region, source)
        return
    sink = lowering.sink(region)
    reach_of_mean(node, source, sink)
    first = main if lowering.layout.kind(node) is None else node.outputs[0]
    counted = source.grid is not None
    own = ending(lowering, region, first, sink, source.lanes, counted=counted)
    scale, share = _read(node, source, own)
    machine = replace(lowering.plain_machine, lanes=own.lanes)

    def emit() -> None:
        written = own.written(sink.wide)
        kernel = _kernel(
            node,
            machine,
            (rescaled(source.wide, scale), written),
            (source, sink),
            own.expression(),
            share,
        )
        emit_integers(lowering, region, kernel, sink, (source.place,), own)

    lowering.later(emit)


def _read(node: Node, source: Image, own: Ending) -> tuple[float | None, float]:
    """The scale the source is read with, and what the sum of a mean is multiplied by."""
    if source.grid is None:
        return None, 0.0
    if node.op not in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
        return (ratio(source.grid.scale, own.unit) if own.main is None else own.main), 0.0
    count = source.height * source.width
    if node.op == "AveragePool":
        count = 1 if counts_inside(node) else int(np.prod(node.attrs["kernel_shape"]))
    # The sum is of integers, and exact.
    return 1.0, float(np.float32(source.grid.scale) / (np.float32(own.unit) * np.float32(count)))


def _moved(lowering: Lowering, region: Region, source: Image) -> None:
    """What computes nothing moves bytes."""
    assert source.grid is not None
    sink = lowering.sink(region, source.grid)
    machine = replace(lowering.plain_machine, lanes=BLOCK, dtype=source.grid.dtype)

    def emit() -> None:
        bare = [Strides(i.strides.row, i.strides.plane) for i in (source, sink)]
        kernel = _kernel(region.first, machine, (bare[0], bare[1]), (source, sink), None, 0.0)
        lowering.write(sink)
        lowering.step(kernel, (source.place, sink.place), kernel.parts, what_of(region))

    lowering.later(emit)


def _kernel(
    node: Node,
    machine: Machine,
    strides: tuple[Strides, Strides],
    images: tuple[Image, Image],
    text: Any,
    share: float,
) -> Any:
    source, sink = images
    blocks = sink.vectors(machine.lanes)
    size, given = (sink.height, sink.width), (source.height, source.width)
    ends: dict[str, Any] = {} if text is None else {"expression": text}
    kind: Literal["max", "mean"] = "max" if node.op in ("MaxPool", "GlobalMaxPool") else "mean"
    if node.op in ("MaxPool", "AveragePool"):
        window = window_of(node)
        assert window is not None
        return WindowPool(
            machine,
            kind,
            window,
            *strides,
            blocks,
            given,
            *size,
            _POOL_COLUMNS,
            share=share,
            inside=counts_inside(node),
            **ends,
        )
    if node.op in ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean"):
        return ImagePool(machine, kind, *strides, blocks, given, share=share, **ends)
    if node.op == "Resize":
        factors = (size[0] // given[0], size[1] // given[1])
        return Enlarge(machine, *strides, blocks, *size, factors, **ends)
    return Pointwise(machine, *strides, blocks, *size, text)


# --- roundings --------------------------------------------------------------------------------------


def plan_rounding(lowering: Lowering, region: Region) -> None:
    """A QuantizeLinear on its own: nothing where its input has that grid already."""
    node = region.first
    tensor, grid = node.inputs[0], grid_of(node)
    assert grid is not None
    if not lowering.has_image(tensor):
        image = lowering.new_image(tensor, grid)
        lowering.set_image(node.outputs[0], image)
        lowering.round_plain(tensor, image, what_of(region))
        return
    source = lowering.stored(tensor)
    if source.grid == grid:
        lowering.set_image(node.outputs[0], source)
        return
    image = lowering.new_image(tensor, grid)
    lowering.set_image(node.outputs[0], image)
    lowering.later(_copier(lowering, source, image, what_of(region)))


def plan_back(lowering: Lowering, region: Region) -> None:
    """A DequantizeLinear: readers convert."""
    node = region.first
    lowering.set_image(node.outputs[0], lowering.stored(node.inputs[0]))


def _copier(lowering: Lowering, source: Image, sink: Image, what: str) -> Callable[[], None]:
    return lambda: lowering.copy_image(source, sink, what)
