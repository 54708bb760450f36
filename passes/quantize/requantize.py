"""From the sums an integer kernel makes back to 8 bits: times a real number, in two ways.

    q = clip(round(M sums) + zero),   M = s_x s_w / s_y

`real` multiplies in single precision and rounds half to even, as ONNX Runtime's QLinear kernels do.
`fixed_point` uses integers alone: M = M0 2^shift with M0 in [0.5, 1) as 31 bits behind the point, a
doubling high multiplication that rounds and a right shift that rounds, as in gemmlowp and Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018, section 2.2 and appendix B. The two differ by at most one, where M sums is about half way between
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import RunError
from graphopt.passes.quantize.grid import Array, Grid

INT32 = np.iinfo(np.int32)
_POINT = 31  # bits behind the point of M0
# How far the terms of a sum are moved to the left, so that rescaling them loses next to nothing.
_ROOM = {4: 24, 8: 20, 16: 12}

# (sums, M, grid of the result) -> integers; M broadcasts against the sums.
Rescale: TypeAlias = Callable[[Array, Any, Grid], Array]
# ([(integers less their zero point, M), ...], grid of the result) -> integers
RescaledSum: TypeAlias = Callable[[Sequence[tuple[Array, Any]], Grid], Array]


def accumulated(sums: Array) -> Array:
    """Sums as 32 bits, which is what a kernel adds up in.

    Raises:
        RunError: one does not fit. A kernel would go on with a wrong number and say nothing.
    """
    worst = max((int(sums.max()), -int(sums.min())), default=0) if sums.size else 0
    if sums.size and (sums.max() > INT32.max or sums.min() < INT32.min):
        raise RunError(
            f"a sum of products reaches {worst:,}, which 32 bits do not hold: fewer bits for weights or "
            "activations, or a bias that is smaller in units of s_x s_w"
        )
    return sums.astype(np.int32)


def placed(steps: Array, grid: Grid) -> Array:
    """clip(steps + zero) in the type of a grid for a whole tensor."""
    moved = np.asarray(steps).astype(np.int64) + int(grid.zero)
    return np.clip(moved, grid.low, grid.high).astype(grid.kind.dtype)


# --- single precision -------------------------------------------------------------------------


def real(sums: Array, multiplier: Any, grid: Grid) -> Array:
    """clip(round(M sums) + zero), M and the product in single precision, half to even."""
    product = sums.astype(np.float32) * np.asarray(multiplier, np.float32)
    return placed(np.rint(product), grid)


def real_sum(terms: Sequence[tuple[Array, Any]], grid: Grid) -> Array:
    """clip(round(sum of M_i q_i) + zero), in single precision and half to even."""
    parts = [q.astype(np.float32) * np.asarray(m, np.float32) for q, m in terms]
    return placed(np.rint(sum(parts[1:], start=parts[0])), grid)


# --- integers alone ---------------------------------------------------------------------------


def fixed_point_of(multiplier: Any) -> tuple[Array, Array]:
    """(M0, shift) with M = M0 / 2^31 2^shift and M0 / 2^31 in [0.5, 1); (0, 0) for 0.

    Raises:
        RunError: M is negative or not finite.
    """
    values = np.asarray(multiplier, np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise RunError(
            f"no rescaling by {values.min()}: it takes a finite number that is not negative"
        )
    mantissa, shift = np.frexp(values)
    m0 = np.rint(mantissa * (1 << _POINT)).astype(np.int64)
    is_one = m0 == 1 << _POINT  # rounded up to 1, which is 0.5 and one more step to the left
    return np.where(is_one, m0 >> 1, m0), np.where(is_one, shift + 1, shift).astype(np.int64)


def doubling_high_multiply(a: Array, b: Array) -> Array:
    """round(2 a b / 2^32), half upwards: what SQRDMULH of ARM computes."""
    return (a.astype(np.int64) * b + (1 << (_POINT - 1))) >> _POINT


def rounding_shift(values: Array, by: Array) -> Array:
    """round(values / 2^by), half away from zero."""
    wide = values.astype(np.int64)
    rest = wide & ((np.int64(1) << by) - 1)
    half = ((np.int64(1) << by) - 1 >> 1) + (wide < 0)
    return (wide >> by) + (rest > half)


def multiplied(values: Array, multiplier: Any) -> Array:
    """round(M values) in 32 bits, with integers alone."""
    m0, shift = fixed_point_of(multiplier)
    moved = accumulated(values.astype(np.int64) << np.maximum(shift, 0))
    # What 62 places move away is 0 whatever it was.
    return rounding_shift(doubling_high_multiply(moved, m0), np.minimum(np.maximum(-shift, 0), 62))


def fixed_point(sums: Array, multiplier: Any, grid: Grid) -> Array:
    """clip(round(M sums) + zero) with integers alone."""
    return placed(multiplied(sums, multiplier), grid)


def fixed_point_sum(terms: Sequence[tuple[Array, Any]], grid: Grid) -> Array:
    """clip(round(sum of M_i q_i) + zero) with integers alone.

    The terms are moved to the left and brought to one scale that is coarse enough for all of them, as
    TensorFlow Lite's kernel of Add does.
    """
    room = _ROOM[grid.kind.bits]
    common = len(terms) * max(float(np.max(m)) for _, m in terms)
    total = sum(multiplied(q.astype(np.int64) << room, np.asarray(m) / common) for q, m in terms)
    return placed(multiplied(accumulated(np.asarray(total)), common / (1 << room)), grid)
