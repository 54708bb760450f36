"""Quotients by a constant that are rounded to integers, by products, and exactly as a division rounds them.

    q = x y,   r = x - q s,   q' = q + r y      with y = 1 / s rounded, and r and q' rounded once (fused)

q' is the quotient as a division would round it but for cases nobody has to meet (P. Markstein,
"Computation of elementary functions on the IBM RISC System/6000 processor", 1990). llvm-mca gives a
Cortex-A57 27 cycles more for a division of four numbers than for these instructions.

What matters is the integer q' is rounded to. It could differ from the division's only where x / s is within
some last bits of half an integer, and of those numbers there are a few for every integer: all of them are
computed both ways when a network is compiled, and a scale for which one differs is divided by.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np

from graphopt.runtime.kernels.formulas import Numbers
from graphopt.runtime.kernels.simd import Value, let

Floats: TypeAlias = np.ndarray[Any, Any]

# q is off by two roundings, 2^-22 of itself at most, and numbers are 2^-24 of themselves apart at least.
_NEAR = 16
# Beyond, an inverse or what is left of a number could underflow or overflow.
_LEAST, _MOST = 2.0**-60, 2.0**60


def rounded_quotient(x: Value, scale: float, low: int, high: int, lanes: int) -> Value:
    """x / scale, with any error that rounding it to an integer from low to high does not show.

    Numbers whose quotients lie beyond are given as the last ones that do not.
    """
    n = Numbers("float32", lanes)
    first, last = outermost(scale, low, high)
    x = let(n.max(n.min(x, n(last)), n(first)))
    inverse = n(float(_inverse(scale)))
    q = let(x * inverse)
    rest = let(n.fused(n(-scale), q, x))
    return n.fused(rest, inverse, q)


@cache
def is_exact(scale: float, low: int, high: int) -> bool:
    """Whether `rounded_quotient` is rounded to the same integer as the quotient, for every float32."""
    if not _LEAST <= scale <= _MOST:
        return False
    first, last = outermost(scale, low, high)
    x = np.clip(_doubtful(scale, low, high), np.float32(first), np.float32(last))
    return bool(np.array_equal(np.rint(_corrected(x, scale)), np.rint(x / np.float32(scale))))


@cache
def outermost(scale: float, low: int, high: int) -> tuple[float, float]:
    """The numbers farthest apart whose quotients are rounded to low and to high."""
    found = []
    for limit, side in ((low, -1), (high, 1)):
        x = _around(np.array([limit + side * 0.5]), scale)
        inside = x[side * np.rint(x / np.float32(scale)) <= side * limit]
        found.append(float(inside.max() if side > 0 else inside.min()))
    return found[0], found[1]


def _doubtful(scale: float, low: int, high: int) -> Floats:
    """Every number that could be rounded to one integer by a division and to another by products.

    Those at both ends are among them: nothing bounds what is made of them.
    """
    return _around(np.arange(low - 1, high + 1) + 0.5, scale)


def _around(quotients: Floats, scale: float) -> Floats:
    middle = (quotients * np.float64(np.float32(scale))).astype(np.float32)
    ordered = middle.view(np.int32)[:, None] + np.arange(-_NEAR, _NEAR + 1, dtype=np.int32)
    return ordered.view(np.float32).reshape(-1)


def _corrected(x: Floats, scale: float) -> Floats:
    """q' as the instructions compute it, NaN where float64 cannot tell how they round.

    Products of two float32 are exact in float64, and so is what is left of x (Sterbenz); the last sum is
    not, and where it lies in the middle of two float32 its own rounding may have brought it there.
    """
    wide, inverse, divisor = x.astype(np.float64), _inverse(scale), np.float64(np.float32(scale))
    q = (wide * inverse).astype(np.float32).astype(np.float64)
    rest = (wide - q * divisor).astype(np.float32).astype(np.float64)
    total = q + rest * inverse
    made = total.astype(np.float32)
    half = np.spacing(np.abs(made)).astype(np.float64) / 2
    return np.where(np.abs(total - made) == half, np.float32(np.nan), made)


def _inverse(scale: float) -> np.float64:
    return np.float64(np.float32(1) / np.float32(scale))
