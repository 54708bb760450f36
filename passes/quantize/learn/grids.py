"""Scales and zero points as modules of a view.

    learned     s = s_0 2^e,   z = round(z_0 + q_max o),   e and o start at 0 and are trained
    observed    s and z cover a moving average of the smallest and largest values seen

With gradients from the view's QuantizeLinear and DequantizeLinear this is the learned step size of Esser
et al., ICLR 2020, with offsets after Bhalgat et al. (LSQ+), CVPR workshops 2020. Theirs is trained as
it is; here its logarithm is, as in Jain et al., "Trained Quantization Thresholds", MLSys 2020: a scale is
never negative, optimizers that divide by the gradient's size (Adam) move small and large scales
alike, and a power of two stays one when e is rounded. The gradient of e is such that a step of SGD moves s
by what LSQ's does, g = 1 / sqrt(N q_max) included, where ranges are 1 (as weights are: see `units.py`):

    de = -lr g q_max^2 s / ln 2 dL/ds     =>     ds = -lr g (s q_max)^2 dL/ds     (to first order)

An offset is counted in ranges, q_max steps, and has the same g; it is rounded when it is used, so that 0
is represented exactly in every step of the training.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.passes.quantize.grid import Grid, channel_grid, grid_for

# A scale may move by this factor of two in both directions: further off lies a run that has gone wrong.
REACH = 6.0


class _Scale(torch.autograd.Function):
    """start * 2^exponent, with a gradient that makes SGD's step on the exponent LSQ's on the scale."""

    @staticmethod
    def forward(ctx: Any, exponent: Tensor, start: Tensor, gain: float, whole: bool) -> Tensor:
        used = exponent.round() if whole else exponent
        scale = start * torch.exp2(used.clamp(-REACH, REACH))
        ctx.save_for_backward(exponent, scale)
        ctx.gain = gain
        return scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        exponent, scale = ctx.saved_tensors
        found = gradients[0] * scale * ctx.gain
        return _inward(exponent, found, -REACH, REACH), None, None, None


class _ZeroPoint(torch.autograd.Function):
    """clip(round(start + high offset), low, high), with LSQ's gain on the offset."""

    @staticmethod
    def forward(
        ctx: Any, offset: Tensor, start: Tensor, gain: float, low: int, high: int
    ) -> Tensor:
        moved = start + high * offset
        ctx.save_for_backward(moved)
        ctx.gain, ctx.low, ctx.high = gain, low, high
        return moved.round().clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (moved,) = ctx.saved_tensors
        found = gradients[0] * (ctx.gain * ctx.high)
        return _inward(moved, found, ctx.low, ctx.high), None, None, None, None


def _inward(values: Tensor, gradient: Tensor, low: float, high: float) -> Tensor:
    """The gradient without what would lead further out of a range."""
    outward = ((values <= low) & (gradient > 0)) | ((values >= high) & (gradient < 0))
    return gradient.masked_fill(outward, 0.0)


class LearnedGrid(nn.Module):
    """The grid of one or several tensors; its result is the scale and the zero point.

    Args:
        grid: where it starts.
        count: how many values of one image (or of the weight) have one scale: N of LSQ.
        offset: also train the zero point.
        power_of_two: the scales start as powers of two and stay such.
    """

    def __init__(self, grid: Grid, count: float, *, offset: bool, power_of_two: bool) -> None:
        super().__init__()
        self.grid, self.power_of_two = grid, power_of_two
        self.gain = 1 / math.sqrt(max(count, 1.0) * grid.high)  # g of LSQ
        start, zero = _numbers(grid)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("start_zero", zero, persistent=False)
        self.exponent = nn.Parameter(torch.zeros_like(start))
        self.offset = nn.Parameter(torch.zeros_like(zero)) if offset else None

    start: Tensor
    start_zero: Tensor

    def forward(self) -> tuple[Tensor, Tensor]:
        """The scale and the zero point, both in floating point."""
        scale = self.scale
        if self.offset is None:
            return scale, self.start_zero
        low, high = self.grid.low, self.grid.high
        arguments = (self.offset, self.start_zero, self.gain, low, high)
        return scale, _ZeroPoint.apply(*arguments)

    @property
    def scale(self) -> Tensor:
        """The scale as it stands."""
        gain = self.gain * self.grid.high**2 / math.log(2)
        found: Tensor = _Scale.apply(self.exponent, self.start, gain, self.power_of_two)
        return found

    @property
    def zero(self) -> Tensor:
        """The zero point as it stands."""
        return self()[1]

    def moved(self) -> float:
        """By which power of two the scales have moved, in the mean."""
        return float((self.scale / self.start).detach().log2().abs().mean())


class Seen(nn.Module):
    """Passes values on and remembers the smallest and the largest of them, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.watching = True
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        if self.training and self.watching:
            low, high = torch.aminmax(x.detach())
            self.low = low if self.low is None else torch.minimum(low, self.low)
            self.high = high if self.high is None else torch.maximum(high, self.high)
        return x

    def taken(self) -> tuple[Tensor, Tensor] | None:
        """What was seen since it was last asked for, or None."""
        low, high = self.low, self.high
        self.low = self.high = None
        return None if low is None or high is None else (low, high)


class ObservedGrid(nn.Module):
    """The grid of what was seen; its result is the scale and the zero point, without gradients.

    Args:
        grid: where it starts, and whose type, axis and narrowness it keeps.
        symmetric: the zero point stays where it is.
        power_of_two: scales are powers of two.
        places: how many activations are on it.
    """

    def __init__(self, grid: Grid, *, symmetric: bool, power_of_two: bool, places: int = 0) -> None:
        super().__init__()
        self.seen = nn.ModuleList(Seen() for _ in range(places))
        self.grid, self.symmetric, self.power_of_two = grid, symmetric, power_of_two
        start, zero = _numbers(grid)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("scale", start.clone())
        self.register_buffer("zero", zero)
        self.register_buffer("low", (grid.low - zero) * start)
        self.register_buffer("high", (grid.high - zero) * start)

    start: Tensor
    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor
    seen: Any  # of Seen

    def forward(self) -> tuple[Tensor, Tensor]:
        """The scale and the zero point, both in floating point."""
        return self.scale, self.zero

    def see(self, low: Tensor, high: Tensor, momentum: float) -> None:
        """Moves the range of an activation towards the smallest and largest value of a batch."""
        self.low.lerp_(low.to(self.low), momentum)
        self.high.lerp_(high.to(self.high), momentum)
        found = grid_for(
            self.low.cpu().numpy(),
            self.high.cpu().numpy(),
            self.grid.kind,
            symmetric=self.symmetric,
            narrow=self.grid.narrow,
            power_of_two=self.power_of_two,
        )
        self._take(found)

    def fit(self, weight: Tensor, least: Tensor) -> None:
        """Covers a weight as it stands, with scales not below `least`."""
        values = weight.detach().cpu().numpy()
        if self.grid.axis is None:
            top = abs(values).max(initial=0.0)
            kind = self.grid.kind
            how = {"symmetric": True, "narrow": True, "power_of_two": self.power_of_two}
            found = grid_for(-top, top, kind, **how)
        else:
            found = channel_grid(
                values, self.grid.axis, self.grid.kind, power_of_two=self.power_of_two
            )
        self._take(found)
        self.scale.clamp_(min=least)

    def _take(self, found: Grid) -> None:
        scale, zero = _numbers(found)
        self.scale.copy_(scale)
        self.zero.copy_(zero)

    def moved(self) -> float:
        """By which power of two the scales have moved, in the mean."""
        return float((self.scale / self.start).log2().abs().mean())


class Gate(nn.Module):
    """Rounded values, or in training those before rounding while it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True

    def forward(self, plain: Tensor, rounded: Tensor) -> Tensor:
        """`rounded`, unless it is closed."""
        return rounded if self.open or not self.training else plain


def _numbers(grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero point in single precision."""
    scale = torch.from_numpy(grid.scale.astype("float32", copy=True))
    return scale, torch.from_numpy(grid.zero.astype("float32"))
