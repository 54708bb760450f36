"""Activations and other functions of one value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.slots import Scalar


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x where x >= 0, else alpha x."""
    return functional.leaky_relu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where x >= 0, else alpha (e^x - 1)."""
    return functional.elu(x, alpha)


def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """gamma x where x > 0, else gamma alpha (e^x - 1)."""
    return gamma * functional.elu(x, alpha)


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha (e^(x / alpha) - 1))."""
    return functional.celu(x, alpha)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """max(0, min(1, alpha x + beta))."""
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return functional.hardsigmoid(x)
    return (alpha * x + beta).clamp(0, 1)


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x), exact where torch's own goes over to x."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return functional.softsign(x)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x Phi(x), or its approximation with tanh."""
    return functional.gelu(x, approximate=approximate)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x sigmoid(alpha x)."""
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where x > alpha, else 0."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    zero = torch.zeros_like(x)
    moved = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))
    return moved.to(x.dtype)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where x >= 0, else slope x; the slope is broadcast."""
    return torch.where(x >= 0, x, slope * x)


def clip(x: Tensor, low: Scalar | None = None, high: Scalar | None = None) -> Tensor:
    """min(high, max(low, x))."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        bounded = x if low is None else torch.maximum(x, _like(low, x))
        return bounded if high is None else torch.minimum(bounded, _like(high, x))
    if low == 0 and high == 6 and x.is_floating_point():
        return functional.relu6(x)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _like(bound: Scalar, x: Tensor) -> Tensor:
    return torch.as_tensor(bound, dtype=x.dtype, device=x.device)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """e^x / sum e^x along an axis."""
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """x - ln sum e^x along an axis."""
    return torch.log_softmax(x, axis)


def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """1 where the first largest value along an axis stands, else 0."""
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether a value is infinite."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_negative:
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if detect_positive else found


ROWS: dict[str, Any] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Celu": celu,
    "Clip": clip,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Elu": elu,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": functional.hardswish,
    "Hardmax": hardmax,
    "IsInf": is_infinite,
    "IsNaN": torch.isnan,
    "LeakyRelu": leaky_relu,
    "Log": torch.log,
    "LogSoftmax": log_softmax,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "PRelu": prelu,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softmax": softmax,
    "Softplus": softplus,
    "Softsign": softsign,
    "Sqrt": torch.sqrt,
    "Swish": swish,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "ThresholdedRelu": thresholded_relu,
}
