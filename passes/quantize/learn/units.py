"""Weights and biases counted in units of their own size.

    w = u v,   u = the power of two at or above max |w| of its channel

What is trained is v, which is of size 1 in every channel of every layer. A folded network has channels
whose weights differ by factors of thousands, since their BatchNormalizations are inside; without a unit
there is no learning rate for all of them (ResNet-8 of MLPerf Tiny, whose images run to 255, diverges with
SGD at 1e-6). As u is a power of two, u v is w to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphopt.ir.graph import is_op
from graphopt.passes.quantize.placement import PRODUCTS, weight_axis

_SMALLEST = (
    2.0**-16
)  # of the largest channel's unit: a channel that holds nothing stays where it is


class InUnits(nn.Module):
    """A parameter as unit times share; the share is trained."""

    def __init__(self, values: Tensor, axis: int | None) -> None:
        """`values` to start from, with one unit per element of `axis`."""
        super().__init__()
        unit = units_of(values.detach(), axis)
        self.register_buffer("unit", unit, persistent=False)
        self.share = nn.Parameter(values.detach() / unit)

    unit: Tensor

    def forward(self) -> Tensor:
        """The parameter."""
        return self.share * self.unit

    @property
    def value(self) -> Tensor:
        """The parameter."""
        return self()


def units_of(values: Tensor, axis: int | None) -> Tensor:
    """The power of two at or above the largest magnitude, per element of `axis` or of all."""
    size = values.abs()
    if axis is None or values.dim() < 2:
        top = size.max().reshape((1,) * values.dim())
    else:
        top = size.amax([i for i in range(values.dim()) if i != axis], keepdim=True)
    largest = top.max()
    if not largest > 0:
        return torch.ones_like(top)
    return torch.exp2(top.clamp_min(largest * _SMALLEST).log2().ceil())


def axis_of_channels(constant: Any) -> int | None:
    """The axis of a weight's output channels, or None where it is no weight of a product."""
    for reader in constant.outputs:
        if is_op(reader, "QuantizeLinear") and reader.inputs[1].values.ndim == 1:
            return int(reader.attrs.get("axis", 1)) % constant.values.ndim
        if is_op(reader, *PRODUCTS) and reader.inputs[1] is constant:
            return weight_axis(reader)
    return None
