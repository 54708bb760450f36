"""Real numbers as integers of 8 bits in memory, or in half precision, and back, in registers.

    x = scale (q - zero),   q = clip(round(x / scale) + zero, low, high)

Rounding is half to even, by adding 1.5 * 2^23: what is left of the sum's bits is the integer, and its
lowest 8 bits are stored. It takes no instruction that a processor might not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from graphopt.runtime.kernels.formulas import Numbers
from graphopt.runtime.kernels.quotient import is_exact, rounded_quotient
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
        quotient: how numbers are divided by the scale: "product" with its inverse, which is one step off
            a hundred times in a million; as ONNX says by "division", which takes many times as long; or
            "fused", which says the same (`quotient.py`).
    """

    dtype: str
    scale: float
    zero: int
    low: int
    high: int
    quotient: Literal["product", "fused", "division"] = "product"

    def exactly(self, *, fused: bool) -> Grid:
        """The same grid, divided by as ONNX says.

        Args:
            fused: whether the processor adds a product before it rounds it.
        """
        by_products = fused and is_exact(self.scale, self.low - self.zero, self.high - self.zero)
        return replace(self, quotient="fused" if by_products else "division")

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
        steps = cast(n.bits(self._in_steps(value, lanes) + n(_ROUNDS), "int32"), self.dtype, lanes)
        return steps + constant(self.zero, self.dtype, lanes) if self.zero else steps

    def _in_steps(self, value: Value, lanes: int) -> Value:
        """value / scale, bounded."""
        n, low, high = Numbers("float32", lanes), self.low - self.zero, self.high - self.zero
        if self.scale != 1.0 and self.quotient == "fused":
            return rounded_quotient(value, self.scale, low, high, lanes)
        if self.scale != 1.0 and self.quotient == "division":
            value = value / n(self.scale)
        elif self.scale != 1.0:
            value = value * n(float(np.float32(1) / np.float32(self.scale)))
        return n.max(n.min(value, n(high)), n(low))


@dataclass(frozen=True)
class Half:
    """Numbers of half precision, as kernels that compute in float32 see them: x = float32(h)."""

    dtype: str = "float16"

    def exactly(self, **_: bool) -> Half:
        """Itself: there is nothing to divide by."""
        return self

    def read(self, stored: Value, lanes: int) -> Value:
        """The numbers, in float32."""
        return cast(stored, "float32", lanes)

    def written(self, value: Value, lanes: int) -> Value:
        """What is stored for numbers in float32."""
        return cast(value, "float16", lanes)
