"""Which kernels compute a region on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Node, input_value
from graphopt.runtime.gpu import choose, weights
from graphopt.runtime.gpu.dense import Dense
from graphopt.runtime.gpu.expression import Ending
from graphopt.runtime.gpu.images import GpuImage
from graphopt.runtime.gpu.kernel import GpuKernel
from graphopt.runtime.gpu.layout import transposed_window
from graphopt.runtime.gpu.lowering import LANES, GpuLowering, macs_of, what_of
from graphopt.runtime.gpu.plan_generic import plan_generic
from graphopt.runtime.gpu.products import Conv, DepthwiseConv, TransposedConv
from graphopt.runtime.gpu.resize import Interpolate
from graphopt.runtime.gpu.simple import CopyChannels, Enlarge, ImagePool, Pointwise, WindowPool
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.interpolation import interpolation
from graphopt.runtime.lower.layout import counts_inside, window_of
from graphopt.runtime.lower.lowering import is_alias


def plan(lowering: GpuLowering, region: Region) -> None:
    """Plans the kernels of one region."""
    node = region.first
    kind = lowering.layout.kind(node)
    if kind is not None:
        _PLANNERS[kind](lowering, region)
    elif region.nodes:
        _simple(lowering, region, lambda _, sink, ending: Pointwise(sink.shape, ending))
    elif is_alias(node):
        lowering.alias(node.outputs[0], node.inputs[0])
    else:
        plan_generic(lowering, node)


def _simple(
    lowering: GpuLowering,
    region: Region,
    kernel: Callable[[GpuImage, GpuImage, Ending], GpuKernel],
) -> None:
    """Plans a kernel with one source image and one sink."""
    node = region.first
    elementwise = bool(region.nodes) and region.nodes[0] is node
    source = lowering.image(lowering.main_input(node) if elementwise else node.inputs[0])
    ending, operands = lowering.ending(region)
    sink = lowering.make_image(region.out)
    made = kernel(source, sink, ending)
    lowering.later(
        lambda: lowering.step(
            made, (source.place, sink.place, *operands()), what_of(region), macs_of(region)
        )
    )


def _plan_pool(lowering: GpuLowering, region: Region) -> None:
    node, window = region.first, window_of(region.first)
    assert window is not None
    kind: Literal["max", "mean"] = "max" if node.op == "MaxPool" else "mean"
    _simple(
        lowering,
        region,
        lambda source, sink, ending: WindowPool(
            kind, window, source.shape, sink.shape, ending, counts_inside(node)
        ),
    )


def _plan_image_pool(lowering: GpuLowering, region: Region) -> None:
    kind: Literal["max", "mean"] = "max" if region.first.op == "GlobalMaxPool" else "mean"
    _simple(lowering, region, lambda source, _, ending: ImagePool(kind, source.shape, ending))


def _plan_enlarge(lowering: GpuLowering, region: Region) -> None:
    def made(source: GpuImage, sink: GpuImage, ending: Ending) -> Enlarge:
        small, large = source.shape, sink.shape
        factors = (large.height // small.height, large.width // small.width)
        return Enlarge(large, factors, ending)

    _simple(lowering, region, made)


def _plan_interpolate(lowering: GpuLowering, region: Region) -> None:
    axes = interpolation(region.first)
    assert axes is not None
    _simple(
        lowering,
        region,
        lambda source, sink, ending: Interpolate(source.shape, sink.shape, *axes, ending),
    )


def _bias(node: Node) -> Any:
    values = input_value(node, 2)
    return None if values is None else values.reshape(-1)


def _plan_conv(lowering: GpuLowering, region: Region) -> None:
    window = window_of(region.first)
    assert window is not None
    _plan_window(lowering, region, Conv, window, lambda weight, _: weight)


def _plan_transposed(lowering: GpuLowering, region: Region) -> None:
    window = transposed_window(region.first)
    assert window is not None
    _plan_window(lowering, region, TransposedConv, window, weights.transposed)


def _plan_window(
    lowering: GpuLowering,
    region: Region,
    kind: type[Conv],
    window: Window,
    straight: Callable[[Any, int], Any],
) -> None:
    """Plans a convolution; `straight` makes its weight one of (outputs, channels, rows, columns)."""
    node = region.first
    weight, groups = node.inputs[1], int(node.attrs.get("group", 1))
    source = lowering.image(node.inputs[0])
    ending, operands = lowering.ending(region, _bias(node))
    sink = lowering.make_image(region.out)
    tile = choose.tile(lowering.unit, window, source.shape, sink.shape, groups)
    packed = lowering.weight(
        kind.__name__,
        weight,
        (groups, tile.blocks),
        lambda: weights.conv(straight(weight.values, groups), groups, tile.blocks),
    )
    kernel = kind(window, source.shape, sink.shape, groups, tile, ending)
    _plan_product(lowering, region, kernel, lambda: (source.place, packed, sink.place, *operands()))


def _plan_depthwise(lowering: GpuLowering, region: Region) -> None:
    node, window = region.first, window_of(region.first)
    assert window is not None
    weight, source = node.inputs[1], lowering.image(node.inputs[0])
    ending, operands = lowering.ending(region, _bias(node))
    sink = lowering.make_image(region.out)
    packed = lowering.weight("depthwise", weight, (), lambda: weights.depthwise(weight.values))
    kernel = DepthwiseConv(window, source.shape, sink.shape, ending)
    _plan_product(lowering, region, kernel, lambda: (source.place, packed, sink.place, *operands()))


def _plan_product(
    lowering: GpuLowering, region: Region, kernel: GpuKernel, places: Callable[[], Any]
) -> None:
    lowering.later(lambda: lowering.step(kernel, places(), what_of(region), macs_of(region)))


def _plan_dense(lowering: GpuLowering, region: Region) -> None:
    node = region.first
    weight, turned = node.inputs[1], bool(node.attrs.get("transB", 0))
    inputs, outputs = weight.shape[::-1] if turned else weight.shape
    alpha, beta = (float(node.attrs.get(k, 1.0)) for k in ("alpha", "beta"))
    packed = lowering.weight(
        "dense",
        weight,
        (turned, alpha),
        lambda: weights.dense((weight.values.T if turned else weight.values) * np.float32(alpha)),
    )
    bias = _bias(node) if node.op == "Gemm" else None
    full = np.zeros(outputs, np.float32) if bias is None else np.float32(beta) * bias
    added = lowering.constant(
        ("dense bias", id(node)), lambda: np.broadcast_to(full, (outputs,)).copy(), node
    )
    source, sink = lowering.plain(node.inputs[0]), lowering.make_plain(region.out)
    kernel = Dense(inputs, outputs)
    _plan_product(lowering, region, kernel, lambda: (source, packed, added, sink))


def _plan_concat(lowering: GpuLowering, region: Region) -> None:
    """Inputs that can lie in the result do, and cost nothing; others are copied."""
    sink = lowering.make_image(region.out)
    first = 0
    for tensor in region.first.inputs:
        image, channels = lowering.image(tensor), lowering.image(tensor).shape.channels
        is_last = first + channels == sink.shape.channels
        fits = first % LANES == 0 and (channels % LANES == 0 or is_last)
        if fits and image.is_root and not sink.lies_in(image):
            image.lie_in(sink, first // LANES)
        else:
            _plan_copy(lowering, region, image, sink, first)
        first += channels


def _plan_copy(
    lowering: GpuLowering, region: Region, image: GpuImage, sink: GpuImage, to: int
) -> None:
    is_last = to + image.shape.channels == sink.shape.channels
    kernel = CopyChannels(image.shape, to, is_last)
    lowering.later(
        lambda: lowering.step(kernel, (image.place, sink.place), what_of(region)),
    )


def _plan_pieces(lowering: GpuLowering, region: Region) -> None:
    source = lowering.image(region.first.inputs[0])
    first = 0
    for tensor in region.first.outputs:
        piece = lowering.make_image(tensor)
        piece.lie_in(source, first // LANES)
        first += piece.shape.channels


def _refuse_integers(lowering: GpuLowering, region: Region) -> None:  # noqa: ARG001
    raise UnsupportedError(
        f"{region.first.op} {what_of(region)}: kernels for GPUs compute in float32 or float16"
    )


_PLANNERS: dict[str, Callable[[GpuLowering, Region], None]] = {
    "conv": _plan_conv,
    "transposed": _plan_transposed,
    "interpolate": _plan_interpolate,
    "depthwise": _plan_depthwise,
    "dense": _plan_dense,
    "pool": _plan_pool,
    "image-pool": _plan_image_pool,
    "enlarge": _plan_enlarge,
    "concat": _plan_concat,
    "pieces": _plan_pieces,
    "round": _refuse_integers,
    "unround": _refuse_integers,
}
