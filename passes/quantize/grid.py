"""The numbers that integers stand for, and how a real number is put on them.

    x = scale * (q - zero),   q = clip(round(x / scale) + zero, low, high)

with `round` half to even, as in ONNX QuantizeLinear (and Jacob et al., "Quantization and Training of
Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, eq. 1). Computed in
float32 in this order, so that numpy, ONNX Runtime and the FX view give the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import UsageError

Array = np.ndarray[Any, Any]

# A scale below this leaves float32's normal numbers in products of two.
SMALLEST_SCALE = 1e-18
_NUMPY = {"int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


@dataclass(frozen=True)
class Kind:
    """An integer type a tensor may be stored in: its name in ONNX and numpy, and its range."""

    name: str
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type; 4-bit types are those of ml_dtypes."""
        return np.dtype(_NUMPY.get(self.name, self.name))


KINDS = {
    name: Kind(name, bits, signed)
    for name, bits, signed in (
        ("int4", 4, True),
        ("uint4", 4, False),
        ("int8", 8, True),
        ("uint8", 8, False),
        ("int16", 16, True),
        ("uint16", 16, False),
    )
}


@dataclass(frozen=True)
class Grid:
    """A scale and a zero point, one for a tensor or one per element of `axis`."""

    kind: Kind
    scale: Array  # float32, () or (channels,)
    zero: Array  # integers of the same shape
    axis: int | None = None
    narrow: bool = False  # leaves out the smallest integer, so that the range is symmetric

    @property
    def low(self) -> int:
        """The smallest integer in use."""
        return self.kind.low + (1 if self.narrow else 0)

    @property
    def high(self) -> int:
        """The largest integer in use."""
        return self.kind.high

    def quantize(self, values: Array) -> Array:
        """The integers for real numbers, in the grid's type."""
        scale, zero = self._beside(values)
        # float32 throughout, as ONNX Runtime computes it; what is no number counts as 0.
        steps = np.rint(np.nan_to_num(values.astype(np.float32) / scale))
        return np.clip(steps + zero, self.low, self.high).astype(self.kind.dtype)

    def dequantize(self, integers: Array) -> Array:
        """The real numbers that integers stand for, as float32."""
        scale, zero = self._beside(integers)
        return (integers.astype(np.float32) - zero) * scale

    def rounded(self, values: Array) -> Array:
        """Real numbers after a round trip: what the integer network computes with."""
        return self.dequantize(self.quantize(values))

    def _beside(self, values: Array) -> tuple[Array, Array]:
        scale, zero = self.scale, self.zero.astype(np.float32)
        if self.axis is None:
            return scale.reshape(()), zero.reshape(())
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return scale.reshape(shape), zero.reshape(shape)


def grid_for(
    low: Any,
    high: Any,
    kind: Kind,
    *,
    symmetric: bool,
    narrow: bool = False,
    power_of_two: bool = False,
    axis: int | None = None,
) -> Grid:
    """The grid that covers a range of real numbers.

    Asymmetric, S = (high - low) / (q_max - q_min) and Z = round(q_min - low / S), after the range is
    widened to hold 0, which every grid represents exactly (padding is 0). Symmetric, Z stands for 0 in
    the middle of the integers and S = max(|low|, |high|) / (q_max - Z).

    Args:
        low, high: the range, one number or one per element of `axis`.
        kind: the integer type.
        symmetric: Z is 0 (signed) or the middle (unsigned).
        narrow: never use the smallest integer.
        power_of_two: round S up to a power of two, so that rescaling is a shift.
        axis: the axis the numbers run along.

    Raises:
        UsageError: a bound is not finite, or low > high.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UsageError(f"a range of {low} to {high} cannot be quantized: it is not finite")
    if (low > high).any():
        raise UsageError(f"a range cannot run from {low} to {high}")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    q_low, q_high = kind.low + (1 if narrow else 0), kind.high
    if symmetric:
        zero = 0 if kind.signed else (kind.low + kind.high + 1) // 2
        scale = np.maximum(high, -low) / (q_high - zero)
    else:
        scale = (high - low) / (q_high - q_low)
    # A tensor that is always 0 (a dead channel) is 0 on any grid.
    scale = np.where(scale < SMALLEST_SCALE, 1.0, scale)
    if power_of_two:
        scale = np.exp2(np.ceil(np.log2(scale) - 1e-9))
    scale = np.asarray(scale, np.float32)
    zeros = np.full(scale.shape, zero) if symmetric else np.rint(q_low - low / scale)
    zeros = np.clip(zeros, q_low, q_high).astype(np.int64)
    return Grid(kind, np.asarray(scale), np.asarray(zeros), axis, narrow)


def channel_grid(
    values: Array, axis: int, kind: Kind, *, power_of_two: bool = False, clip: Any = None
) -> Grid:
    """The symmetric narrow grid of a weight: one scale per element of `axis`, no zero point.

    Channels that hold nothing get the scale of the weakest one that does, so that a bias divided by
    their scale stays small.

    Args:
        values: the weight.
        axis: the axis of its output channels.
        kind: the integer type.
        power_of_two: see `grid_for`.
        clip: the largest magnitude to represent, per channel; the largest there is when left out.
    """
    rows = np.abs(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)).astype(np.float64)
    top = rows.max(axis=1) if rows.size else np.zeros(len(rows))
    top = top if clip is None else np.minimum(top, clip)
    alive = top > SMALLEST_SCALE * kind.high
    top = np.where(alive, top, top[alive].min() if alive.any() else 1.0)
    return grid_for(
        -top, top, kind, symmetric=True, narrow=True, power_of_two=power_of_two, axis=axis
    )
