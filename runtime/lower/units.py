"""In what numbers a kernel over integers computes, so that as little as possible is left to do.

Sums, products and what ReLU and its like make of them are the same in steps of the result's grid as in
real numbers. Then the scales of operands and result meet in one factor, as in ONNX Runtime's integer
kernels, and bounds are those of the integers that are written. Everything else is computed in numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphopt.ir.graph import Tensor, static_shape
from graphopt.runtime.kernels.grid import Grid
from graphopt.runtime.kernels.pointwise import Apply, Expression, Operand, Strides
from graphopt.runtime.lower import weights
from graphopt.runtime.lower.fuse import Region, per_channel, text_of
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.program import Place

BLOCK = 16  # channels of a pixel of integers
_HOMOGENEOUS = {"Identity", "Relu", "LeakyRelu", "Abs", "Neg", "Add", "Sub", "Min", "Max"}


@dataclass
class _Operand:
    """An image, or a constant per channel."""

    tensor: Tensor
    image: Image | None
    place: Callable[[], Place]
    kind: Any


@dataclass
class Ending:
    """What follows a kernel's sums, and how results are stored.

    Attributes:
        lanes: channels that are stored at once.
        unit: one step of what is stored where values are counted in steps, else 1.
        sink: the grid values are written on, or None.
        main: the scale the main operand is read with where it is an image of integers, or None for
            its own divided by `unit`.
    """

    operands: list[_Operand]
    steps: list[Apply]
    lanes: int
    unit: float
    sink: Grid | None
    main: float | None = None
    scales: list[float | None] = field(default_factory=list)

    def expression(self) -> Expression:
        """The expression, once strides are final."""
        found = []
        for operand, scale in zip(self.operands, self.scales, strict=True):
            if operand.image is None:
                found.append(Operand("channels", Strides(0, BLOCK, BLOCK)))
                continue
            found.append(Operand(operand.kind, rescaled(operand.image.wide, scale)))
        return Expression(tuple(found), tuple(self.steps))

    def places(self) -> list[Place]:
        """Of the operands."""
        return [o.place() for o in self.operands]

    def written(self, strides: Strides) -> Strides:
        """The sink's strides with the grid values are written on."""
        return strides if self.sink is None else replace(strides, grid=self.sink)


def rescaled(strides: Strides, scale: float | None) -> Strides:
    """Strides of an image that is read with another scale than its own."""
    if scale is None or not isinstance(strides.grid, Grid):
        return strides
    return replace(strides, grid=replace(strides.grid, scale=scale))


def ratio(scale: Any, unit: float) -> float:
    """scale / unit in single precision."""
    return float(np.float32(scale) / np.float32(unit))


def ending(
    lowering: Lowering,
    region: Region,
    main: Tensor,
    sink: Image,
    given: int,
    *,
    counted: bool = True,
) -> Ending:
    """How a kernel over integers ends.

    Args:
        lowering: where images are.
        region: the kernel's.
        main: the tensor the region's expression begins with.
        sink: the image that is written.
        given: channels of a vector of the main operand, at the most.
        counted: whether the main operand is made of integers, and so can be had in any unit.
    """
    shape = static_shape(region.out) or ()
    text = text_of(region, main, lambda t: _operand(lowering, t, shape))
    operands: list[_Operand] = text.operands
    images = [o.image for o in operands if o.image is not None]
    lanes = min([given, sink.lanes, *(i.lanes for i in images)])
    own = Ending(operands, list(text.steps), lanes, 1.0, sink.grid)
    own.scales = [None] * len(operands)
    if sink.grid is None or not counted:
        return own
    steps, grid = _without_bounds(own.steps, len(operands), sink.grid)
    grids = [o.image.grid if o.image else None for o in operands]
    if all(s.op in _HOMOGENEOUS for s in steps) and all(grids):
        own.steps, own.unit, own.sink = steps, grid.scale, replace(grid, scale=1.0)
        own.scales = [ratio(g.scale, grid.scale) for g in grids if g]
    elif len(steps) == 1 and steps[0].op == "Mul" and len(grids) == 1 and grids[0]:
        _as_product(own, lowering, main, grid, grids[0])
    return own


def _as_product(own: Ending, lowering: Lowering, main: Tensor, grid: Grid, other: Grid) -> None:
    """q_a q_b M, M = s_a s_b / s_y, of two images of integers."""
    image = lowering.stored(main) if lowering.has_image(main) else None
    if image is None or image.grid is None:
        return
    factor = ratio(np.float32(image.grid.scale) * np.float32(other.scale), grid.scale)
    own.steps = [
        Apply("Mul", (0, 1)),
        Apply("Constant", (), (("value", factor),)),
        Apply("Mul", (2, 3)),
    ]
    own.unit, own.sink, own.main, own.scales = grid.scale, replace(grid, scale=1.0), 1.0, [1.0]


def _without_bounds(steps: list[Apply], operands: int, grid: Grid) -> tuple[list[Apply], Grid]:
    """ReLU and Clip at the end as bounds of the integers that are written."""
    steps = list(steps)
    while steps and steps[-1].op in ("Relu", "Clip"):
        if steps[-1].inputs != (operands + len(steps) - 1,):
            break
        attrs = {"min": 0.0} if steps[-1].op == "Relu" else dict(steps[-1].attrs)
        low, high = (_stored(attrs.get(k), grid) for k in ("min", "max"))
        low = grid.low if low is None else max(grid.low, low)
        high = grid.high if high is None else min(grid.high, high)
        if low > high:
            break
        grid = replace(grid, low=low, high=high)
        steps.pop()
    return steps, grid


def _stored(value: float | None, grid: Grid) -> int | None:
    if value is None:
        return None
    steps = np.rint(np.float32(value) / np.float32(grid.scale)) + grid.zero
    return int(np.clip(steps, grid.low, grid.high))


def _operand(lowering: Lowering, tensor: Tensor, shape: tuple[int, ...]) -> _Operand:
    constant = per_channel(tensor, shape)
    if constant is not None:
        size = -(-shape[1] // BLOCK) * BLOCK
        key = ("integer channels", id(tensor))
        place = lowering.constant(key, lambda: weights.channels(constant, size), tensor)
        return _Operand(tensor, None, lambda: place, "channels")
    image = lowering.stored(tensor)
    kind = "image" if static_shape(tensor) == shape else "channels"
    return _Operand(tensor, image, lambda: image.place, kind)
