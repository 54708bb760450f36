"""Real numbers as integers of 8 bits in memory, or in half precision, and back, in registers.

    x = scale (q - zero),   q = clip(round(x / scale) + zero, low, high)

Rounding is half to even, by adding 1.5 * 2^23: what is left of the sum's bits is the integer, and its
lowest 8 bits are stored. It takes no instruction that a processor might not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.runtime.kernels.formulas import Numbers
from graphopt.runtime.kernels.simd import Value, cast, constant

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
_ROUNDS = 12582912.0  # 1.5 * 2^23
_FLOAT_BITS = 32


@dataclass(frozen=True)
class Grid:
    """How numbers are stored.

    Attributes:
        dtype: int8 or uint8.
        scale: of one step; 1 where values are counted in steps already.
        zero: the integer that stands for 0.
        low: the smallest integer that is written.
        high: the largest.
        exact: divides by the scale, as ONNX says; a product with its inverse is a hundred times in a
            million one step off, and several times as fast.
    """

    dtype: str
    scale: float
    zero: int
    low: int
    high: int
    exact: bool = False

    def read(self, stored: Value, lanes: int) -> Value:
        """The numbers that integers stand for, in float32."""
        wide = cast(stored, "int32", lanes)
        if self.zero:
            wide = wide - constant(self.zero, "int32", lanes)
        steps = cast(wide, "float32", lanes)
        return steps if self.scale == 1.0 else steps * constant(self.scale, "float32", lanes)

    def written(self, value: Value, lanes: int) -> Value:
        """The integers that are stored for numbers."""
        n = Numbers("float32", lanes)
        if value.ty.dtype.bits != _FLOAT_BITS:
            value = cast(value, "float32", lanes)
        if self.scale != 1.0 and self.exact:
            value = value / n(self.scale)
        elif self.scale != 1.0:
            value = value * n(float(np.float32(1) / np.float32(self.scale)))
        value = n.max(n.min(value, n(self.high - self.zero)), n(self.low - self.zero))
        steps = cast(n.bits(value + n(_ROUNDS), "int32"), self.dtype, lanes)
        return steps + constant(self.zero, self.dtype, lanes) if self.zero else steps


@dataclass(frozen=True)
class Half:
    """Numbers of half precision, as kernels that compute in float32 see them: x = float32(h)."""

    dtype: str = "float16"
    exact: bool = False

    def read(self, stored: Value, lanes: int) -> Value:
        """The numbers, in float32."""
        return cast(stored, "float32", lanes)

    def written(self, value: Value, lanes: int) -> Value:
        """What is stored for numbers in float32."""
        return cast(value, "float16", lanes)
