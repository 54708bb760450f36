"""Normalizations that keep no statistics; BatchNormalization and Dropout are modules (`modules.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.slots import axis_of


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Every channel of every image to mean 0 and variance 1, then scale and bias."""
    # The function below functional.instance_norm, which refuses images of one position.
    return torch.instance_norm(
        x, scale, bias, None, None, True, 0.0, epsilon, torch.backends.cudnn.enabled
    )


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """To mean 0 and variance 1 over the axes from `axis` on, then scale and bias."""
    shape = list(x.shape[axis_of(axis, x.dim()) :])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, None, None, epsilon) * scale
    return normal if bias is None else normal + bias


def rms_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """x / sqrt(mean x^2 + epsilon) over the axes from `axis` on, then scale."""
    axes = list(range(axis_of(axis, x.dim()), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale


def group_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
) -> Tensor:
    """Every group of channels to mean 0 and variance 1, then scale and bias per channel or group."""
    if scale.shape[0] == num_groups != x.shape[1]:
        each = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    # The function below functional.group_norm, which refuses groups of one value.
    return torch.group_norm(x, num_groups, scale, bias, epsilon)


def local_response_norm(
    x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    """x / (bias + alpha / size sum of squares of `size` channels around)^beta."""
    return (
        functional.local_response_norm(x, size, alpha, beta, bias)
        if size % 2
        else _even_lrn(x, alpha, beta, bias, size)
    )


def _even_lrn(x: Tensor, alpha: float, beta: float, bias: float, size: int) -> Tensor:
    # ONNX puts the longer half behind the channel, torch before it.
    before = (size - 1) // 2
    pads = [0, 0] * (x.dim() - 2) + [before, size - 1 - before]
    around = functional.pad(x.square(), pads)
    sums = sum(around.narrow(1, i, x.shape[1]) for i in range(size))
    return x / (bias + alpha / size * sums) ** beta


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """x divided by its p-norm along an axis; 0 stays 0."""
    norm = x.norm(p, axis, keepdim=True)
    return torch.where(
        norm == 0, torch.zeros_like(x), x / norm.clamp_min(torch.finfo(x.dtype).tiny)
    )


def mean_variance_norm(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """(x - mean) / (standard deviation + 1e-9) over the axes."""
    over = list(axes)
    centred = x - x.mean(over, keepdim=True)
    # The norm has a gradient where all values are equal, the root of a mean has none there.
    count = math.prod(x.shape[axis] for axis in over)
    deviation = torch.linalg.vector_norm(centred, 2, over, keepdim=True) / math.sqrt(count)
    return centred / (deviation + 1e-9)


ROWS: dict[str, Any] = {
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": local_response_norm,
    "LayerNormalization": layer_norm,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_norm,
    "RMSNormalization": rms_norm,
}
