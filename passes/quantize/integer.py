"""What integer kernels compute, in plain numpy: the reference of a network that is not simulated.

    q_y = clip(round(M sum (q_x - Z_x)(q_w - Z_w)) + Z_y),   M = s_x s_w / s_y

(Jacob et al., CVPR 2018, eq. 4). Every function takes integers on their grids and gives integers on the
grid it is asked for; sums are exact, padding is the zero point, which stands for 0. How sums come back
to 8 bits is a parameter (`requantize.py`). Nothing here is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from graphopt.errors import UsageError
from graphopt.passes.quantize.grid import Array, Grid
from graphopt.passes.quantize.requantize import (
    Rescale,
    RescaledSum,
    accumulated,
    real,
    real_sum,
)

_TABLE_BITS = 8
_FRACTION = 10  # bits of the share of a neighbour in an interpolation


@dataclass(frozen=True)
class Integers:
    """Integers and the grid they stand on."""

    values: Array
    grid: Grid

    def centred(self) -> Array:
        """q - Z, wide enough for sums."""
        zero = _beside(self.grid.zero.astype(np.int64), self.grid.axis, self.values.ndim)
        return self.values.astype(np.int64) - zero

    def real(self) -> Array:
        """The numbers these integers stand for."""
        return self.grid.dequantize(self.values)


def on_grid(values: Array, grid: Grid) -> Integers:
    """Real numbers as integers."""
    return Integers(grid.quantize(values), grid)


# --- products ---------------------------------------------------------------------------------


def conv2d(
    x: Integers,
    weight: Integers,
    y: Grid,
    bias: Array | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    rescale: Rescale = real,
) -> Integers:
    """x (N, C, H, W) with weight (M, C / group, h, w); bias (M,) on the scale s_x s_w, in 32 bits.

    Raises:
        RunError: a sum does not fit 32 bits.
    """
    padded = Integers(_padded(x, pads), x.grid)
    sums = convolved(padded.centred(), weight.centred(), strides, dilations, group)
    if bias is not None:
        sums = sums + bias.astype(np.int64).reshape(-1, 1, 1)
    multiplier = _beside(_multiplier(x.grid, weight.grid, y), 1 if _is_many(weight) else None, 4)
    return Integers(rescale(accumulated(sums), multiplier, y), y)


def gemm(
    x: Integers,
    weight: Integers,
    y: Grid,
    bias: Array | None = None,
    *,
    rescale: Rescale = real,
) -> Integers:
    """x (N, K) with weight (M, K), as of a linear layer; bias (M,) on the scale s_x s_w, in 32 bits.

    Raises:
        RunError: a sum does not fit 32 bits.
    """
    axis = None if weight.grid.axis is None else 1 - weight.grid.axis % 2
    turned = Grid(weight.grid.kind, weight.grid.scale, weight.grid.zero, axis, weight.grid.narrow)
    return matmul(x, Integers(weight.values.T, turned), y, bias, rescale=rescale)


def matmul(
    a: Integers,
    b: Integers,
    y: Grid,
    bias: Array | None = None,
    *,
    rescale: Rescale = real,
) -> Integers:
    """a (..., N, K) with b (..., K, M), whose scales may differ by column.

    Raises:
        RunError: a sum does not fit 32 bits.
        UsageError: the scales of b run along another axis, over which sums run.
    """
    if b.grid.axis is not None and b.grid.axis % b.values.ndim != b.values.ndim - 1:
        raise UsageError("the scales of a matrix product run along its columns, no other axis")
    sums = _product(a.centred(), b.centred())
    if bias is not None:
        sums = sums + bias.astype(np.int64)
    return Integers(rescale(accumulated(sums), _multiplier(a.grid, b.grid, y), y), y)


def convolved(
    x: Array, weight: Array, strides: Sequence[int], dilations: Sequence[int], group: int
) -> Array:
    """The sums of a convolution of integers as they are, without padding."""
    n, channels = x.shape[:2]
    windows = _windows(x, weight.shape[2:], strides, dilations)  # (N, C, Y, X, h, w)
    height, width = windows.shape[2:4]
    rows = windows.reshape(n, group, channels // group, *windows.shape[2:])
    rows = rows.transpose(1, 0, 3, 4, 2, 5, 6).reshape(group, n * height * width, -1)
    columns = weight.reshape(group, weight.shape[0] // group, -1).transpose(0, 2, 1)
    sums = _product(rows, columns).reshape(group, n, height, width, -1)
    return sums.transpose(1, 0, 4, 2, 3).reshape(n, -1, height, width)


def zero_point_bias(bias: Array, weights: Array, zero: int) -> Array:
    """The bias with which a kernel that does not subtract Z_x computes the same.

        sum (q_x - Z_x) q_w + b = sum q_x q_w + (b - Z_x sum q_w)

    Exact at borders, too, because what is padded there is Z_x.

    Args:
        bias: (M,), in 32 bits.
        weights: (M, ...), with a zero point of 0.
        zero: Z_x.

    Raises:
        RunError: the result does not fit 32 bits.
    """
    totals = weights.astype(np.int64).reshape(len(weights), -1).sum(1)
    return accumulated(bias.astype(np.int64) - zero * totals)


def _product(a: Array, b: Array) -> Array:
    # Double precision holds sums of products of 16 bits exactly, and numpy has fast products of it.
    return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def _multiplier(x: Grid, weight: Grid, y: Grid) -> Array:
    """s_x s_w / s_y in single precision, in this order, as ONNX Runtime does."""
    product = np.asarray(x.scale, np.float32) * np.asarray(weight.scale, np.float32)
    return np.asarray(product / np.asarray(y.scale, np.float32))


def _is_many(weight: Integers) -> bool:
    if weight.grid.axis not in (None, 0):
        raise UsageError(
            "the scales of a convolution's weight run along its output channels, axis 0"
        )
    return weight.grid.axis == 0


# --- two and more tensors ---------------------------------------------------------------------


def add(a: Integers, b: Integers, y: Grid, *, rescaled_sum: RescaledSum = real_sum) -> Integers:
    """a + b, with numpy's broadcasting."""
    terms = [(each.centred(), each.grid.scale / y.scale) for each in (a, b)]
    return Integers(rescaled_sum(terms, y), y)


def mul(a: Integers, b: Integers, y: Grid, *, rescale: Rescale = real) -> Integers:
    """a b, with numpy's broadcasting."""
    return Integers(rescale(a.centred() * b.centred(), _multiplier(a.grid, b.grid, y), y), y)


def concat(
    parts: Sequence[Integers], y: Grid, *, axis: int = 1, rescale: Rescale = real
) -> Integers:
    """One behind the other, all on one grid."""
    return Integers(
        np.concatenate([requantized(p, y, rescale=rescale).values for p in parts], axis), y
    )


def requantized(x: Integers, y: Grid, *, rescale: Rescale = real) -> Integers:
    """The same numbers on another grid; untouched where it is the same grid."""
    if x.grid.kind == y.kind and x.grid.scale == y.scale and x.grid.zero == y.zero:
        return Integers(np.clip(x.values, y.low, y.high), y)
    return Integers(rescale(x.centred(), x.grid.scale / y.scale, y), y)


# --- windows ----------------------------------------------------------------------------------


def max_pool(
    x: Integers,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
) -> Integers:
    """The largest of every window, on the same grid; padding never wins."""
    padded = _padded(x, pads, value=x.grid.kind.low)
    windows = _windows(padded, kernel, strides, dilations)
    return Integers(windows.max((-2, -1)).astype(x.values.dtype), x.grid)


def average_pool(
    x: Integers,
    y: Grid,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    count_include_pad: bool = False,
    rescale: Rescale = real,
) -> Integers:
    """The mean of every window: M = s_x / (s_y count), where padding is counted or not."""
    ones = Integers(
        np.ones_like(x.values[:1, :1], np.int64), Grid(x.grid.kind, x.grid.scale, x.grid.zero)
    )
    padded = Integers(_padded(x, pads), x.grid).centred()
    inside = _padded(ones, pads, value=1 if count_include_pad else 0)
    counts = _windows(inside, kernel, strides, (1, 1)).sum((-2, -1))
    sums = _windows(padded, kernel, strides, (1, 1)).sum((-2, -1))
    multiplier = np.asarray(x.grid.scale) / (y.scale * counts.astype(np.float32))
    return Integers(rescale(accumulated(sums), multiplier, y), y)


def global_average_pool(x: Integers, y: Grid, *, rescale: Rescale = real) -> Integers:
    """The mean over all positions; axes stay with length 1."""
    positions = tuple(range(2, x.values.ndim))
    count = np.float32(np.prod([x.values.shape[a] for a in positions]))
    sums = x.centred().sum(positions, keepdims=True)
    return Integers(rescale(accumulated(sums), x.grid.scale / (y.scale * count), y), y)


def _padded(x: Integers, pads: Sequence[int], value: int | None = None) -> Array:
    """With the zero point (or a value) above, left of, below and right of the image."""
    top, left, bottom, right = pads
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    inside = int(x.grid.zero) if value is None else value
    return np.pad(x.values.astype(np.int64), around, constant_values=inside)


def _windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """(N, C, H, W) as (N, C, Y, X, h, w): a view."""
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    every = sliding_window_view(x, reach, axis=(2, 3))
    return every[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


# --- other sizes ------------------------------------------------------------------------------


def resize(
    x: Integers,
    size: Sequence[int],
    y: Grid | None = None,
    *,
    mode: str = "nearest",
    coordinates: str = "asymmetric",
    rescale: Rescale = real,
) -> Integers:
    """The image at another size.

    "nearest" takes the value before the position (or the nearest one, not with "asymmetric") and keeps the
    grid; "linear" mixes four values with shares of 10 bits and puts the result on a grid.

    Args:
        x: (N, C, H, W).
        size: height and width of the result.
        y: the grid of the result; x's when left out.
        mode: "nearest" or "linear".
        coordinates: "asymmetric", "half_pixel" or "align_corners", as in ONNX Resize.
        rescale: how sums come back to 8 bits.
    """
    grid = x.grid if y is None else y
    at = [_positions(n, m, coordinates) for n, m in zip(x.values.shape[2:], size, strict=True)]
    if mode == "nearest":
        rounded = [np.floor(p) if coordinates == "asymmetric" else np.ceil(p - 0.5) for p in at]
        rows, columns = (
            np.clip(p, 0, n - 1).astype(np.int64)
            for p, n in zip(rounded, x.values.shape[2:], strict=True)
        )
        return requantized(
            Integers(x.values[:, :, rows][:, :, :, columns], x.grid), grid, rescale=rescale
        )
    sums = x.centred()
    for axis, positions in enumerate(at, start=2):
        sums = _mixed(sums, axis, positions)
    multiplier = x.grid.scale / grid.scale / np.float32(1 << 2 * _FRACTION)
    return Integers(rescale(accumulated(sums), multiplier, grid), grid)


def _positions(before: int, after: int, coordinates: str) -> Array:
    """Where in an axis every element of the result lies."""
    at = np.arange(after, dtype=np.float64)
    if coordinates == "align_corners":
        return at * (before - 1) / max(after - 1, 1)
    if coordinates == "half_pixel":
        return (at + 0.5) * before / after - 0.5
    return at * before / after


def _mixed(values: Array, axis: int, positions: Array) -> Array:
    """Neighbours along an axis, times their shares of 2^10."""
    last = values.shape[axis] - 1
    inside = np.clip(positions, 0, last)
    low = np.minimum(np.floor(inside).astype(np.int64), max(last - 1, 0))
    share = np.rint((inside - low) * (1 << _FRACTION)).astype(np.int64)
    share = _beside(share, axis, values.ndim)
    above = values.take(np.minimum(low + 1, last), axis)
    return values.take(low, axis) * ((1 << _FRACTION) - share) + above * share


# --- functions of one value -------------------------------------------------------------------


def table_of(function: Callable[[Array], Array], x: Grid, y: Grid) -> Array:
    """What a function makes of every integer there is, the lowest first: 256 entries for 8 bits.

    Raises:
        UsageError: the type has more than 8 bits.
    """
    if x.kind.bits > _TABLE_BITS:
        raise UsageError(f"a table for {x.kind.name} would have {1 << x.kind.bits:,} entries")
    every = np.arange(x.kind.low, x.kind.high + 1)
    return y.quantize(function(x.dequantize(every)))


def looked_up(x: Integers, table: Array, y: Grid) -> Integers:
    """Every integer as the table has it."""
    return Integers(table[x.values.astype(np.int64) - x.grid.kind.low], y)


def leaky_relu(x: Integers, y: Grid, *, alpha: float = 0.01) -> Integers:
    """x where x >= 0, else alpha x, by table."""
    slope = np.float32(alpha)
    return looked_up(x, table_of(lambda v: np.where(v >= 0, v, v * slope), x.grid, y), y)


def sigmoid(x: Integers, y: Grid) -> Integers:
    """1 / (1 + e^-x), by table."""
    one = np.float32(1)
    return looked_up(x, table_of(lambda v: one / (one + np.exp(-v)), x.grid, y), y)


def _beside(values: Any, axis: int | None, rank: int) -> Array:
    """One number as it is, or several in a shape that broadcasts along an axis."""
    if axis is None:
        return np.asarray(values).reshape(())
    return np.asarray(values).reshape([-1 if i == axis % rank else 1 for i in range(rank)])
