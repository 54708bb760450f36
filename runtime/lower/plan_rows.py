"""Plans what is done with rows, whose elements lie together: products, and the way to pixels and back."""

from __future__ import annotations

import math

from graphopt.ir.graph import static_shape
from graphopt.runtime.kernels.channels_last import BlockPixels, UnblockPixels
from graphopt.runtime.kernels.rows_product import RowsProduct
from graphopt.runtime.kernels.rows_softmax import RowsSoftmax
from graphopt.runtime.lower import choose
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.lowering import Lowering, macs_of, what_of


def plan_to_pixels(lowering: Lowering, region: Region) -> None:
    """Rows as an image."""
    source = lowering.plain(region.first.inputs[0])
    sink = lowering.make_image(region.out)

    def emit() -> None:
        kernel = BlockPixels(lowering.machine, sink.channels, sink.height, sink.width, sink.strides)
        lowering.write(sink)
        lowering.step(kernel, (source, sink.place), kernel.parts, what_of(region))

    lowering.later(emit)


def plan_to_rows(lowering: Lowering, region: Region) -> None:
    """An image as rows."""
    image = lowering.image(region.first.inputs[0])
    place = lowering.make_plain(region.out)

    def emit() -> None:
        kernel = UnblockPixels(
            lowering.machine, image.channels, image.height, image.width, image.strides
        )
        lowering.step(kernel, (image.place, place), kernel.parts, what_of(region))

    lowering.later(emit)


def plan_rows_product(lowering: Lowering, region: Region) -> None:
    """A product of two matrices that lie row by row, for every matrix of a batch."""
    a, b = region.first.inputs[:2]
    (*_, rows, depth), (*_, columns) = static_shape(a) or (), static_shape(b) or ()
    batch = math.prod((static_shape(region.out) or ())[:-2])
    steps = tuple(0 if math.prod((static_shape(t) or ())[:-2]) == 1 else 1 for t in (a, b))
    machine = lowering.plain_machine
    vectors, high = choose.rows_product(machine, rows, columns)
    kernel = RowsProduct(
        machine,
        rows,
        depth,
        columns,
        batch,
        (steps[0] * rows * depth, steps[1] * depth * columns),
        vectors,
        high,
    )
    given = lowering.plain(a), lowering.plain(b)
    made = lowering.make_plain(region.out)

    def emit() -> None:
        what, macs = what_of(region), macs_of(region)
        lowering.step(kernel, (*given, made), kernel.parts, what, macs=macs)

    lowering.later(emit)


def plan_rows_softmax(lowering: Lowering, region: Region) -> None:
    """A softmax over what lies together."""
    source, shape = region.first.inputs[0], static_shape(region.out) or ()
    kernel = RowsSoftmax(lowering.plain_machine, math.prod(shape[:-1]), shape[-1])
    given, made = lowering.plain(source), lowering.make_plain(region.out)
    lowering.later(lambda: lowering.step(kernel, (given, made), kernel.parts, what_of(region)))
