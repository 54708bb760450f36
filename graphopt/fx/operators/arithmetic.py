"""Functions of two and more values, with numpy's broadcasting."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b; integers are divided towards zero."""
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    """a^b in the type of a."""
    return torch.pow(a, b).to(a.dtype)


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The rest with the sign of b, or of a with `fmod`."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def largest(*values: Tensor) -> Tensor:
    """The largest of all, element by element."""
    return reduce(torch.maximum, values)


def smallest(*values: Tensor) -> Tensor:
    """The smallest of all, element by element."""
    return reduce(torch.minimum, values)


def total(*values: Tensor) -> Tensor:
    """The sum of all, element by element."""
    return reduce(operator.add, values)


def average(*values: Tensor) -> Tensor:
    """The mean of all, element by element."""
    return total(*values) / len(values)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    return torch.where(condition, a, b)


def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """a shifted by b bits; the numbers have no sign."""
    # torch shifts numbers with a sign only; 64 bits hold all others.
    wide, by = a.to(torch.int64), b.to(torch.int64)
    if direction == "LEFT":
        return (wide << by).to(a.dtype)
    # The first step moves a zero in, where a sign would stand.
    once = (wide >> 1) & torch.iinfo(torch.int64).max
    return torch.where(by == 0, wide, once >> (by - 1).clamp_min(0)).to(a.dtype)


ROWS: dict[str, Any] = {
    "Add": operator.add,
    "And": torch.logical_and,
    "BitShift": bit_shift,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Max": largest,
    "Mean": average,
    "Min": smallest,
    "Mod": modulo,
    "Mul": operator.mul,
    "Or": torch.logical_or,
    "Pow": power,
    "Sub": operator.sub,
    "Sum": total,
    "Where": where,
    "Xor": torch.logical_xor,
}
