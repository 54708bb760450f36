"""Sums, means and extremes over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphopt.fx.slots import Ints, ints

_Reduce = Callable[[Tensor, list[int], bool], Tensor]


class Reduction:
    """One of the Reduce operators: which axes is the same for all."""

    def __init__(self, name: str, compute: _Reduce) -> None:
        """Names the function as it is printed in the code of the module."""
        self.__name__ = name
        self.__module__ = __name__
        self.compute = compute

    def __call__(
        self,
        data: Tensor,
        axes: Ints | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        """Reduces over the axes, over all when there are none."""
        over = ints(axes) if axes is not None else []
        if not over and noop_with_empty_axes:  # every value by itself: a norm is still one
            return self.compute(data.unsqueeze(-1), [-1], False)
        return self.compute(data, over or list(range(data.dim())), bool(keepdims))


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.double().mean(axes, keepdim=keep).to(x.dtype)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, axes, keep)
    return _sum(x * x, axes, keep).double().sqrt().to(x.dtype)


reduce_sum = Reduction("reduce_sum", _sum)
reduce_mean = Reduction("reduce_mean", _mean)
reduce_max = Reduction("reduce_max", lambda x, a, k: x.amax(a, keepdim=k))
reduce_min = Reduction("reduce_min", lambda x, a, k: x.amin(a, keepdim=k))
reduce_prod = Reduction("reduce_prod", _prod)
reduce_l1 = Reduction("reduce_l1", lambda x, a, k: _sum(x.abs(), a, k))
reduce_l2 = Reduction("reduce_l2", _l2)
reduce_log_sum = Reduction("reduce_log_sum", lambda x, a, k: _sum(x, a, k).log())
reduce_log_sum_exp = Reduction("reduce_log_sum_exp", lambda x, a, k: torch.logsumexp(x, a, k))
reduce_sum_square = Reduction("reduce_sum_square", lambda x, a, k: _sum(x * x, a, k))

ROWS: dict[str, Any] = {
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_min,
    "ReduceProd": reduce_prod,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
}
