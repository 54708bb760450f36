"""Values with their mean taken out and their size made one, where there is one."""

from __future__ import annotations

import torch
from torch import Tensor

# A mean of equal numbers is off by some units in the last place (up to 6 of them, maps of 64 x 2 x
# 56 x 56): what varies by no more than that does not vary. Ten times as many, for other devices.
_ROUNDING = 64

Axes = int | tuple[int, ...]


def rounding(kind: torch.dtype) -> float:
    """The share of its size by which a constant may seem to vary."""
    return _ROUNDING * torch.finfo(kind).eps


def scaled(values: Tensor, axes: Axes, least: float | Tensor) -> Tensor:
    """x / r, r^2 = mean x^2 over `axes`; 0 with no gradient where r is at most `least`.

    The gradient grows with 1 / r, and a channel that is switched off has r = 0: neither NaN nor the
    direction of noise is to go back to the student.

    Args:
        values: in single precision at least.
        axes: over which r is taken.
        least: the smallest r that is one.
    """
    square = values.square().mean(axes, keepdim=True)
    there = square > least**2
    # Chosen before the root: the derivative of the root is infinite at zero, and 0 * inf is NaN.
    return torch.where(there, values, 0.0) * torch.where(there, square, 1.0).rsqrt()


def standardized(values: Tensor, axes: Axes, least: float) -> Tensor:
    """(x - mean) / std over `axes`, the population's; 0 with no gradient where x is constant.

    Constant is what varies by at most `least`, or by no more than rounding does.
    """
    root_mean_square = values.detach().square().mean(axes, keepdim=True).sqrt()
    floor = (root_mean_square * rounding(values.dtype)).clamp_min(least)
    return scaled(values - values.mean(axes, keepdim=True), axes, floor)


def one_minus_correlation(a: Tensor, b: Tensor, axes: Axes, least: float) -> Tensor:
    """1 - rho(a, b), Pearson's rho over `axes`, as half the mean square between the standardized.

    The same number where both vary, and still meant where one does not: 0 if both are constant,
    1/2 if one is.
    """
    apart = standardized(a, axes, least) - standardized(b, axes, least)
    return apart.square().mean(axes) / 2
