"""Pooling over windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.operators.window import fitted, ones, pad, padding_of, symmetric
from graphopt.fx.slots import Ints, ints

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    outputs: int = 1,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Sequence[Tensor]:
    """The largest value of every window, and where in the flattened input; padding never wins."""
    if not x.is_floating_point():  # torch has no kernels for bytes, and single precision holds them
        largest, *where = max_pool(
            x.float(),
            auto_pad=auto_pad,
            ceil_mode=ceil_mode,
            dilations=dilations,
            kernel_shape=kernel_shape,
            outputs=outputs,
            pads=pads,
            storage_order=storage_order,
            strides=strides,
        )
        return largest.to(x.dtype), *where
    rank = len(kernel_shape)
    steps, spread = ones(strides, rank), ones(dilations, rank)
    size = x.shape[2:]
    padding = padding_of(size, kernel_shape, steps, spread, pads, auto_pad, may_cut=True)
    both = symmetric(padding)
    first = [0] * rank
    if both is None or not _is_small(both, kernel_shape):
        padding = fitted(size, kernel_shape, steps, spread, padding, ceil_mode=bool(ceil_mode))
        first = [before for before, _ in padding]
        x, both, ceil_mode = pad(x, padding, float("-inf")), [0] * rank, 0
    arguments = (list(kernel_shape), steps, both, spread, bool(ceil_mode))
    if outputs == 1:
        return (_MAX[rank](x, *arguments),)
    largest, where = _MAX[rank](x, *arguments, return_indices=True)
    return largest, _in_all(where, x.shape[2:], first, size, column_major=bool(storage_order))


def _is_small(padding: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether torch's poolings take the padding: none to at most half a window."""
    return all(0 <= 2 * p <= k for p, k in zip(padding, kernel, strict=True))


def _in_all(
    where: Tensor,
    padded: Sequence[int],
    first: Sequence[int],
    size: Sequence[int],
    *,
    column_major: bool,
) -> Tensor:
    """Places in one padded plane as places in the whole input."""
    each = []
    for length, before in zip(reversed(padded), reversed(first), strict=True):
        each.append(where % length - before)
        where = where.div(length, rounding_mode="floor")
    axes = list(zip(each, reversed(size), strict=True))  # the last axis first
    inside = torch.zeros_like(where)
    for at, length in axes if column_major else axes[::-1]:
        inside = inside * length + at
    planes = torch.arange(where.shape[0] * where.shape[1], device=where.device)
    start = planes.reshape(*where.shape[:2], *[1] * len(size)) * math.prod(size)
    return start + inside


def max_unpool(
    x: Tensor,
    where: Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Zeros with every value where MaxPool took it from in its flattened input."""
    rank = len(kernel_shape)
    steps, around = ones(strides, rank), list(pads) if pads is not None else [0] * 2 * rank
    shape = [
        (x.shape[2 + i] - 1) * steps[i] + kernel_shape[i] - around[i] - around[i + rank]
        for i in range(rank)
    ]
    full = [*x.shape[:2], *shape] if output_shape is None else ints(output_shape)
    return x.new_zeros(math.prod(full)).scatter(0, where.reshape(-1), x.reshape(-1)).reshape(full)


def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The mean of every window, over what is inside the input unless `count_include_pad`."""
    rank = len(kernel_shape)
    steps, spread = ones(strides, rank), ones(dilations, rank)
    size = x.shape[2:]
    padding = padding_of(size, kernel_shape, steps, spread, pads, auto_pad, may_cut=True)
    both = symmetric(padding)
    if both is not None and _is_small(both, kernel_shape) and set(spread) == {1}:
        return _AVERAGE[rank](
            x, list(kernel_shape), steps, both, bool(ceil_mode), bool(count_include_pad)
        )
    reach = fitted(size, kernel_shape, steps, spread, padding, ceil_mode=bool(ceil_mode))
    present = torch.ones_like(x[:1, :1])
    if count_include_pad:  # what `ceil_mode` adds behind the padding does not count
        present = pad(present, padding, 1.0)
        beside = [(0, r[1] - p[1]) for r, p in zip(reach, padding, strict=True)]
    else:
        beside = reach
    count = _window_sum(pad(present, beside), kernel_shape, steps, spread)
    return _window_sum(pad(x, reach), kernel_shape, steps, spread) / count


def _window_sum(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """The sum of every window, axis by axis."""
    for axis, (k, step, spread) in enumerate(zip(kernel, strides, dilations, strict=True), start=2):
        x = x.unfold(axis, (k - 1) * spread + 1, step)[..., ::spread].sum(-1)
    return x


def lp_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """(sum |x|^p)^(1/p) of every window."""
    rank = len(kernel_shape)
    steps, spread = ones(strides, rank), ones(dilations, rank)
    size = x.shape[2:]
    padding = padding_of(size, kernel_shape, steps, spread, pads, auto_pad, may_cut=True)
    reach = fitted(size, kernel_shape, steps, spread, padding, ceil_mode=bool(ceil_mode))
    sums = _window_sum(pad(x.abs().pow(p), reach), kernel_shape, steps, spread)
    # A root has no gradient at 0, where windows without any value stand.
    some = sums > 0
    return torch.where(some, torch.where(some, sums, 1.0).pow(1 / p), 0.0)


def global_average_pool(x: Tensor) -> Tensor:
    """The mean over all positions; axes stay with length 1."""
    return x.mean(list(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """The largest value over all positions; axes stay with length 1."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """(sum |x|^p)^(1/p) over all positions; axes stay with length 1."""
    return torch.linalg.vector_norm(x, p, list(range(2, x.dim())), keepdim=True)


ROWS: dict[str, Any] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
