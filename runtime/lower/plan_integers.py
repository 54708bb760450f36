"""Plans what reads or writes images of integers: every kernel but the float ones that end in a rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Node, Tensor, label
from graphopt.runtime.kernels.conv_int8 import BLOCK, IntegerConv
from graphopt.runtime.kernels.depthwise_int8 import IntegerDepthwise
from graphopt.runtime.kernels.movement import Enlarge
from graphopt.runtime.kernels.pointwise import Pointwise, Strides
from graphopt.runtime.kernels.pool import ImagePool, WindowPool
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower import choose_int8, weights
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import window_of
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of
from graphopt.runtime.lower.plan_integer_pieces import plan_join, plan_split
from graphopt.runtime.lower.plan_products import reach
from graphopt.runtime.lower.program import Place
from graphopt.runtime.lower.quantized import Product, grid_of
from graphopt.runtime.lower.units import Ending, ending, ratio, rescaled

# Pixels of one register tile of a pool; a pixel is four registers where a register is 128 bits.
_POOL_COLUMNS = 2
_INT32 = np.iinfo(np.int32)


def plan_integers(lowering: Lowering, region: Region) -> bool:
    """Plans the region if it reads or writes integers and has a kernel for them."""
    node, kind = region.first, lowering.layout.kind(region.first)
    product = lowering.products.get(id(node))
    if kind in ("conv", "depthwise"):
        if product is None or lowering.stored(node.inputs[0]).grid is None:
            return False
        planner = _conv if kind == "conv" else _depthwise
        return planner(lowering, region, product)
    if kind in ("concat", "pieces"):
        return (plan_join if kind == "concat" else plan_split)(lowering, region)
    if kind == "dense" or not (kind or region.nodes):
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


# --- products ---------------------------------------------------------------------------------


def _conv(lowering: Lowering, region: Region, product: Product) -> bool:
    node, machine = region.first, lowering.machine
    window, source = window_of(node), lowering.stored(node.inputs[0])
    assert window is not None
    assert source.grid is not None
    if machine.integers == "smlal" and product.weight.min() < -127:
        machine = replace(machine, integers="wide")
    out, depth = product.weight.shape[:2]
    groups = int(node.attrs.get("group", 1))
    if groups > 1 and (depth % BLOCK or out // groups % BLOCK):
        return False
    sink = lowering.sink(region)
    reach(node, window, source, (sink.height, sink.width))
    tile = choose_int8.conv(machine, window, depth, out, (sink.height, sink.width), groups)
    own = ending(lowering, region, node.outputs[0], sink, tile.vectors * machine.lanes)
    length = -(-out // (tile.vectors * machine.lanes)) * tile.vectors * machine.lanes
    packed = lowering.constant(
        ("integers", id(node), tile.vectors),
        lambda: weights.INTEGERS[machine.integers](product.weight, machine.lanes, tile.vectors),
        node,
    )
    shift = weights.shift(machine.integers, source.grid.dtype)
    bias, scale = _sums(lowering, node, product, source, own, (shift, length))

    def emit() -> None:
        kernel = IntegerConv(
            machine,
            window,
            source.strides,
            own.written(sink.strides),
            depth,
            sink.vectors(own.lanes),
            sink.height,
            sink.width,
            tile.vectors,
            tile.columns,
            own.lanes,
            groups,
            own.expression(),
        )
        _emit(lowering, region, kernel, sink, (source.place, packed, bias, scale), own)

    lowering.later(emit)
    return True


def _depthwise(lowering: Lowering, region: Region, product: Product) -> bool:
    node, machine = region.first, lowering.machine
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
            own.written(sink.strides),
            sink.vectors(own.lanes),
            sink.height,
            sink.width,
            choose_int8.depthwise_columns(machine),
            own.lanes,
            paired,
            own.expression(),
        )
        _emit(lowering, region, kernel, sink, (source.place, packed, bias, scale), own)

    lowering.later(emit)
    return True


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


def _emit(
    lowering: Lowering,
    region: Region,
    kernel: Any,
    sink: Image,
    places: tuple[Place, ...],
    own: Ending,
) -> None:
    lowering.write(sink)
    every = (*places, sink.place, *own.places())
    lowering.step(kernel, every, kernel.parts, what_of(region), macs=macs_of(region))


# --- one image to another ------------------------------------------------------------------------


def _simple(lowering: Lowering, region: Region, source: Image, main: Tensor) -> None:
    node = region.first
    rounding = None if region.rounding is None else grid_of(region.rounding)
    moves = node.op in ("MaxPool", "GlobalMaxPool", "Resize") and not region.nodes
    if moves and source.grid is not None and rounding in (None, source.grid):
        _moved(lowering, region, source)
        return
    sink = lowering.sink(region)
    first = main if lowering.layout.kind(node) is None else node.outputs[0]
    counted = source.grid is not None
    own = ending(lowering, region, first, sink, source.lanes, counted=counted)
    scale, share = _read(node, source, own)
    machine = replace(lowering.plain_machine, lanes=own.lanes)

    def emit() -> None:
        written = own.written(sink.strides)
        kernel = _kernel(
            node,
            machine,
            (rescaled(source.strides, scale), written),
            (source, sink),
            own.expression(),
            share,
        )
        _emit(lowering, region, kernel, sink, (source.place,), own)

    lowering.later(emit)


def _read(node: Node, source: Image, own: Ending) -> tuple[float | None, float]:
    """The scale the source is read with, and what the sum of a mean is multiplied by."""
    if source.grid is None:
        return None, 0.0
    if node.op not in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
        return (ratio(source.grid.scale, own.unit) if own.main is None else own.main), 0.0
    count = source.height * source.width
    if node.op == "AveragePool":
        count = int(np.prod(node.attrs["kernel_shape"]))
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
    source, grid = lowering.stored(node.inputs[0]), grid_of(node)
    assert grid is not None
    if source.grid == grid:
        lowering.set_image(node.outputs[0], source)
        return
    image = lowering.new_image(node.inputs[0], grid)
    lowering.set_image(node.outputs[0], image)
    lowering.later(_copier(lowering, source, image, what_of(region)))


def plan_back(lowering: Lowering, region: Region) -> None:
    """A DequantizeLinear: readers convert."""
    node = region.first
    lowering.set_image(node.outputs[0], lowering.stored(node.inputs[0]))


def _copier(lowering: Lowering, source: Image, sink: Image, what: str) -> Callable[[], None]:
    return lambda: lowering.copy_image(source, sink, what)
