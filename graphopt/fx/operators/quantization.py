"""Quantization: integers for real numbers and back, with gradients, and operators of integers.

    q = clip(round(x / s) + z, low, high)        QuantizeLinear, `round` half to even
    y = (q - z) s                                DequantizeLinear

`round` is passed straight through by gradients and `clip` is torch's, so that the pair has
    dy/dx = 1 inside the range, 0 where clipped
    dy/ds = round(x / s) - x / s inside, low - z or high - z where clipped
    dy/dz = 0 inside, -s where clipped
which are those of Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 3, and of Bhalgat et
al., "LSQ+: Improving low-bit quantization through learnable offsets and better initialization", CVPR
workshops 2020. How q travels from one to the other is told in `slots.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphopt.fx.operators.convolution import conv
from graphopt.fx.slots import Whole, axis_of


class _Round(torch.autograd.Function):
    """Half to even; gradients pass as if nothing had happened.

    `x + (round(x) - x).detach()` would be the same, but for infinities, of which it makes NaN.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing has to be kept."""

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    limits: tuple[int, int],
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Whole:
    """clip(round(x / scale) + zero, *limits), whole numbers in floating point.

    Scale and zero point are one number, one per element of `axis`, or one per `block_size` elements of it.
    Computed in single precision, also for 16 bits, as ONNX Runtime does whatever `precision` asks for.
    """
    wide = _wide(x, scale)
    steps = _Round.apply(x.to(wide) / _beside(scale.to(wide), x, axis, block_size))
    # Without a zero point, too, as adding it makes 0 of -0.
    offset = 0.0 if zero is None else _beside(zero.to(wide), x, axis, block_size)
    return (steps + offset).clamp(*limits)


def dequantize_linear(
    x: Whole,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    kind: torch.dtype,
    output_dtype: int = 0,
) -> Tensor:
    """(x - zero) scale, in the type of the scale unless `output_dtype` names one."""
    wide = _wide(x, scale)
    shifted = x.to(wide)
    if zero is not None:
        shifted = shifted - _beside(zero.to(wide), x, axis, block_size)
    result = shifted * _beside(scale.to(wide), x, axis, block_size)
    return result.to(kind if output_dtype else scale.dtype)


def dynamic_quantize_linear(x: Tensor) -> tuple[Whole, Tensor, Tensor]:
    """x on 8 bits that reach from its smallest to its largest value (and 0), with scale and zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).detach().clamp(0, 255).round()
    return quantize_linear(x, scale, zero, limits=(0, 255)), scale, zero.to(torch.uint8)


def _wide(x: Tensor, scale: Tensor) -> torch.dtype:
    """Single precision, or double where either is."""
    both = torch.promote_types(x.dtype, scale.dtype) if x.is_floating_point() else scale.dtype
    return torch.promote_types(both, torch.float32)


def _beside(values: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Scales or zero points in a shape that broadcasts against `x`."""
    if values.numel() == 1:
        return values.reshape(())
    along = axis_of(axis, x.dim())
    if block_size:
        whole = values.repeat_interleave(block_size, along)
        return whole.narrow(along, 0, x.shape[along])  # the last block may be shorter
    return values.reshape([-1 if i == along else 1 for i in range(x.dim())])


# --- integers: no gradients -------------------------------------------------------------------


def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The convolution of (x - x_zero) with (weight - weight_zero), exact, in 32 bits."""
    # Double precision holds every sum of products exactly, and padding is 0 after the subtraction.
    sums = conv(
        _centred(x, x_zero),
        _centred(weight, _along(weight_zero, weight.dim(), 0)),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return sums.long().to(torch.int32)


def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    kind: torch.dtype,
    limits: tuple[int, int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """ConvInteger plus a bias of 32 bits, rescaled to the grid of the result."""
    how: dict[str, Any] = {"auto_pad": auto_pad, "dilations": dilations, "group": group}
    sums = conv_integer(x, weight, x_zero, weight_zero, pads=pads, strides=strides, **how)
    if bias is not None:
        sums = sums + _along(bias, sums.dim(), 1)
    scale = _along(x_scale * weight_scale / y_scale, sums.dim(), 1)
    return _rescaled(sums, scale, y_zero, kind, limits)


def matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """(a - a_zero) (b - b_zero), exact, in 32 bits; zero points per tensor, row of a, column of b."""
    return (_centred(a, _per_row(a_zero)) @ _centred(b, b_zero)).long().to(torch.int32)


def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    *,
    kind: torch.dtype,
    limits: tuple[int, int],
) -> Tensor:
    """MatMulInteger, rescaled to the grid of the result."""
    sums = matmul_integer(a, b, a_zero, b_zero)
    scale = _per_row(a_scale) * b_scale / _per_row(y_scale)
    return _rescaled(sums, scale, _per_row(y_zero), kind, limits)


def _rescaled(
    sums: Tensor, scale: Tensor, zero: Tensor, kind: torch.dtype, limits: tuple[int, int]
) -> Tensor:
    steps = (sums.to(scale.dtype) * scale).round()
    return (steps + zero).clamp(*limits).to(kind)


def _centred(values: Tensor, zero: Tensor | None) -> Tensor:
    wide = values.to(torch.float64)
    return wide if zero is None else wide - zero


def _along(values: Any, rank: int, axis: int) -> Any:
    """One number as it is, or several along an axis; None stays None."""
    if values is None or values.numel() == 1:
        return None if values is None else values.reshape(())
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _per_row(values: Any) -> Any:
    """Numbers of rows of a matrix as a column; one number, several matrices and None as they are."""
    return values.unsqueeze(-1) if values is not None and values.dim() == 1 else values


ROWS: dict[str, Any] = {
    "ConvInteger": conv_integer,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "QuantizeLinear": quantize_linear,
}
