"""Plans joins and splits of images of integers: bytes stay where they are, or are copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from graphopt.ir.graph import Tensor, sole_reader
from graphopt.runtime.kernels.conv_int8 import BLOCK
from graphopt.runtime.kernels.grid import Grid
from graphopt.runtime.kernels.movement import CopyChannels
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.lowering import Lowering, what_of
from graphopt.runtime.lower.quantized import grid_of


def plan_join(lowering: Lowering, region: Region) -> bool:
    """A Concat whose result is rounded, or whose inputs all have one grid.

    An input on the result's grid lies in it where channel blocks allow; others are put on the grid.
    """
    node = region.first
    images = [lowering.stored(t) for t in node.inputs]
    grid = _common_grid(lowering, region.out, images)
    if grid is None:
        return False
    sink = lowering.sink(region, grid)
    first = 0
    copies: list[tuple[Image, int]] = []
    for given in images:
        image = given
        last = first + image.channels == sink.channels
        fits = first % BLOCK == 0 and (image.channels % BLOCK == 0 or last)
        if image.grid != grid:
            shape = (given.channels, given.height, given.width)
            image = Image(given.name, shape, BLOCK, grid.dtype, grid)
            lowering.later(_onto(lowering, given, image, what_of(region)))
        if fits and image.is_root and not any(image is c for c, _ in copies):
            image.lie_in(sink, first // BLOCK)
        else:
            copies.append((image, first))
        first += image.channels

    def emit() -> None:
        lowering.write(sink)
        for image, to in copies:
            _copy(lowering, image, sink, (0, to, image.channels), what_of(region))

    if copies:
        lowering.later(emit)
    return True


def plan_split(lowering: Lowering, region: Region) -> bool:
    """A Split of an image of integers."""
    node = region.first
    source = lowering.stored(node.inputs[0])
    if source.grid is None:
        return False
    first = 0
    for tensor in node.outputs:
        piece = lowering.new_image(tensor, source.grid)
        lowering.set_image(tensor, piece)
        if first % BLOCK == 0:
            piece.lie_in(source, first // BLOCK)
        else:
            lowering.later(_taken(lowering, source, piece, first, what_of(region)))
        first += piece.channels
    return True


def _common_grid(lowering: Lowering, out: Tensor, images: list[Image]) -> Grid | None:
    reader = sole_reader(lowering.graph, out)
    if reader is not None and lowering.layout.kind(reader) == "round":
        return grid_of(reader)
    grids = {image.grid for image in images}
    return grids.pop() if len(grids) == 1 else None


def _onto(lowering: Lowering, source: Image, sink: Image, what: str) -> Callable[[], None]:
    return lambda: lowering.copy_image(source, sink, what)


def _taken(
    lowering: Lowering, source: Image, piece: Image, first: int, what: str
) -> Callable[[], None]:
    def emit() -> None:
        lowering.write(piece)
        _copy(lowering, source, piece, (first, 0, piece.channels), what)

    return emit


def _copy(
    lowering: Lowering, source: Image, sink: Image, channels: tuple[int, int, int], what: str
) -> None:
    machine = replace(lowering.plain_machine, lanes=BLOCK, dtype=sink.dtype)
    bare = [Strides(i.strides.row, i.strides.plane) for i in (source, sink)]
    kernel = CopyChannels(machine, bare[0], bare[1], *channels, sink.height, sink.width)
    lowering.step(kernel, (source.place, sink.place), kernel.parts, what)
