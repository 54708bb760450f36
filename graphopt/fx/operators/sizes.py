"""Shapes, types and what is made from them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphopt.fx.slots import Ints, Scalar, ints, number


def shape(data: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The dimensions from `start` to `end`, on the CPU."""
    return torch.tensor(list(data.shape[start:end]), dtype=torch.int64)


def size(data: Tensor) -> Tensor:
    """How many elements, on the CPU."""
    return torch.tensor(data.numel(), dtype=torch.int64)


def cast(data: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """In another type; numbers lose their fraction on the way to integers."""
    return data.to(to)


def cast_like(data: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """In the type of another tensor."""
    return data.to(like.dtype)


def constant_of_shape(wanted: Ints, *, value: Scalar = 0.0, kind: torch.dtype) -> Tensor:
    """One value everywhere."""
    return torch.full(ints(wanted), number(value), dtype=kind)


def arange(start: Scalar, limit: Scalar, delta: Scalar, *, kind: torch.dtype) -> Tensor:
    """start, start + delta, ... below (above) limit."""
    first, step = number(start), number(delta)
    count = max(math.ceil((number(limit) - first) / step), 0)
    return (first + step * torch.arange(count)).to(kind)


ROWS: dict[str, Any] = {
    "Cast": cast,
    "CastLike": cast_like,
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Range": arange,
}
