"""What losses take of whole feature maps, a few images at a time, with derivatives written down.

A map of the first layers is larger than any cache: in plain operations every square and every
difference is one more tensor written to memory and read back, and a step spends more time on them
than on its convolutions. Here a piece of the batch goes through all of them while it lies in the
cache, whichever way the map lies in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphopt.passes.distill.losses.spread import rounding

_PIECE = 1 << 20  # bytes of one map that are worked on together: a second-level cache's


def one_minus_channel_correlation(a: Tensor, b: Tensor, least: float) -> Tensor:
    """1 - rho_c, (C,): Pearson's correlation of channel c over images and positions.

    With a' = (a - mean a) / std a and b' likewise, over the n values of a channel:

        1 - rho = mean (a' - b')^2 / 2,    d(1 - rho) / da = (rho a' - b') / (n std a).

    A channel is constant if it varies by at most `least`, or by no more than rounding does (as in
    `standardized`): both constant count 0, one constant 1/2, without gradient.

    Args:
        a: (N, C, ...), gets the gradient.
        b: likewise, gets none.
        least: the smallest standard deviation that is one.
    """
    found: Tensor = _Correlation.apply(a, b, least)
    return found


def mean_square_over_channels(features: Tensor) -> Tensor:
    """mean_c F_c^2: (N, C, ...) -> (N, ...)."""
    found: Tensor = _Energy.apply(features)
    return found


class _Moments(NamedTuple):
    """Of every channel, in double precision where there is one: means, and products around them."""

    mean_a: Tensor
    mean_b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, least: float) -> Tensor:
        count = a.numel() // a.shape[1]
        found = _moments(a, b)
        alive_a = _varies(found.aa / count, found.mean_a, a.dtype, least)
        alive_b = _varies(found.bb / count, found.mean_b, b.dtype, least)
        # One where there is no spread, so that nothing is divided by zero; masked below.
        aa = torch.where(alive_a, found.aa, 1.0)
        both = alive_a & alive_b
        scale = torch.where(both, aa.rsqrt() * torch.where(alive_b, found.bb, 1.0).rsqrt(), 0.0)
        rho = found.ab * scale
        ctx.save_for_backward(a, b, found.mean_a, found.mean_b, rho / aa, scale)
        halves = (alive_a.to(rho) + alive_b.to(rho)) / 2
        return (halves - rho).clamp_min(0.0).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        a, b, mean_a, mean_b, own, other = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        out = torch.empty_like(a)
        mean_a, mean_b, own, other = (
            _along(v.to(a.dtype), a)
            for v in (mean_a, mean_b, own * gradients[0], -other * gradients[0])
        )
        room = torch.empty_like(b[: _at_once(a)])
        for one, two, into in _pieces(a, b, out):
            torch.sub(one, mean_a, out=into).mul_(own)
            into.addcmul_(torch.sub(two, mean_b, out=room[: len(two)]), other)
        return out, None, None


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return torch.cat([piece.square().mean(1) for (piece,) in _pieces(features)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        made: Tensor = features * (gradients[0] * (2 / features.shape[1])).unsqueeze(1)
        return made


def _moments(a: Tensor, b: Tensor) -> _Moments:
    """Moments of pieces, put together around the common mean (Chan et al. 1979)."""
    room = [torch.empty_like(each[: _at_once(a)]) for each in (a, b, b)]
    parts = [_moments_of(one, two, room) for one, two in _pieces(a, b)]
    exact = torch.float32 if a.device.type == "mps" else torch.float64  # MPS has no doubles
    mean_a, mean_b, aa, bb, ab = (torch.stack(each).to(exact) for each in zip(*parts, strict=True))
    sizes = [len(one) for one, _ in _pieces(a, b)]
    share = torch.tensor(sizes, dtype=exact, device=a.device).div_(len(a)).unsqueeze(1)
    all_a, all_b = (share * mean_a).sum(0), (share * mean_b).sum(0)
    counts = share * (a.numel() // a.shape[1])
    mean_a, mean_b = mean_a - all_a, mean_b - all_b
    return _Moments(
        all_a,
        all_b,
        (aa + counts * mean_a.square()).sum(0),
        (bb + counts * mean_b.square()).sum(0),
        (ab + counts * mean_a * mean_b).sum(0),
    )


def _moments_of(a: Tensor, b: Tensor, room: list[Tensor]) -> tuple[Tensor, ...]:
    axes = (0, *range(2, a.ndim))
    mean_a, mean_b = a.mean(axes), b.mean(axes)
    one, two, product = (each[: len(a)] for each in room)
    torch.sub(a, _along(mean_a, a), out=one)
    torch.sub(b, _along(mean_b, b), out=two)
    pairs = ((one, one), (two, two), (one, two))
    products = [torch.mul(x, y, out=product).sum(axes) for x, y in pairs]
    return mean_a, mean_b, *products


def _varies(square: Tensor, mean: Tensor, kind: torch.dtype, least: float) -> Tensor:
    floor = (square + mean.square()).sqrt() * rounding(kind)
    varies: Tensor = square > floor.clamp_min(least).square()
    return varies


def _along(values: Tensor, maps: Tensor) -> Tensor:
    """(C,) as (C, 1, ...), for maps (N, C, ...)."""
    return values.reshape(-1, *(1,) * (maps.ndim - 2))


def _pieces(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some images of each at a time."""
    return zip(*(each.split(_at_once(maps[0])) for each in maps), strict=True)


def _at_once(maps: Tensor) -> int:
    """How many images; all of them on devices where starting an operation costs more."""
    if maps.device.type != "cpu":
        return len(maps)
    return max(1, _PIECE // max(1, maps[0].numel() * maps.element_size()))
