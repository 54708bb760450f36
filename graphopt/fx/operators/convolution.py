"""Convolutions in one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.operators.window import ones, pad, padding_of, symmetric
from graphopt.fx.slots import Ints, ints

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """x (N, C, ...) with weight (M, C / group, ...)."""
    rank = weight.dim() - 2
    steps, spread = ones(strides, rank), ones(dilations, rank)
    padding = padding_of(x.shape[2:], weight.shape[2:], steps, spread, pads, auto_pad)
    both = symmetric(padding)
    if both is None:
        x, both = pad(x, padding), [0] * rank
    return _CONV[rank](x, weight, bias, steps, both, spread, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The gradient of a convolution; weight (C, M / group, ...)."""
    rank = weight.dim() - 2
    steps, spread = ones(strides, rank), ones(dilations, rank)
    extra = list(output_padding) if output_padding is not None else [0] * rank
    full = [
        steps[i] * (x.shape[2 + i] - 1) + extra[i] + (weight.shape[2 + i] - 1) * spread[i] + 1
        for i in range(rank)
    ]
    cut = _cut(x, full, steps, output_shape, pads, auto_pad)
    both = symmetric(cut)
    if both is not None:
        return _TRANSPOSED[rank](x, weight, bias, steps, both, extra, group, spread)
    whole = _TRANSPOSED[rank](x, weight, None, steps, [0] * rank, extra, group, spread)
    result = pad(whole, [(-before, -after) for before, after in cut])
    # Where more is asked for than there is, the bias stands alone.
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def _cut(
    x: Tensor,
    full: list[int],
    strides: list[int],
    output_shape: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """How much of the full result is cut off before and after."""
    rank = len(full)
    if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # Never more than there is, unlike an output_shape that is written out.
        output_shape = [min(x.shape[2 + i] * strides[i], full[i]) for i in range(rank)]
    if output_shape is None:
        if pads is None or auto_pad == "VALID":
            return [(0, 0)] * rank
        return [(pads[i], pads[i + rank]) for i in range(rank)]
    surplus = [full[i] - output_shape[len(output_shape) - rank + i] for i in range(rank)]
    less = [max(s, 0) // 2 for s in surplus]
    if auto_pad == "SAME_UPPER":
        return [(half, s - half) for s, half in zip(surplus, less, strict=True)]
    more = [max(s, 0) - half for s, half in zip(surplus, less, strict=True)]
    return [(half, s - half) for s, half in zip(surplus, more, strict=True)]


def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution in two dimensions whose taps are moved by `offset` and weighted by `mask`."""
    steps, spread = ones(strides, 2), ones(dilations, 2)
    padding = padding_of(x.shape[2:], weight.shape[2:], steps, spread, pads, "NOTSET")
    n, _, *size = offset.shape
    taps = weight.shape[2] * weight.shape[3]
    moved = offset.reshape(n, offset_group, taps, 2, *size)
    at = []
    for axis in range(2):
        tap = torch.arange(weight.shape[2 + axis], device=x.device) * spread[axis]
        place = torch.arange(size[axis], device=x.device) * steps[axis] - padding[axis][0]
        tap = tap.repeat_interleave(weight.shape[3]) if axis == 0 else tap.repeat(weight.shape[2])
        place = place.reshape((-1, 1) if axis == 0 else (1, -1))
        at.append(tap.reshape(-1, 1, 1) + place + moved[:, :, :, axis])
    sampled = _sample(x.reshape(n, offset_group, -1, *x.shape[2:]), at[0], at[1])
    if mask is not None:
        sampled = sampled * mask.reshape(n, offset_group, 1, taps, *size)
    columns = sampled.reshape(n, group, x.shape[1] // group * taps, -1)
    result = (weight.reshape(group, weight.shape[0] // group, -1) @ columns).reshape(n, -1, *size)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _sample(x: Tensor, y_at: Tensor, x_at: Tensor) -> Tensor:
    """x (N, G, C, H, W) between its places, 0 outside; positions (N, G, ...), result (N, G, C, ...)."""
    height, width = x.shape[3:]
    flat = x.flatten(3)
    total: Tensor | None = None
    for row, share_y in _beside(y_at, height):
        for column, share_x in _beside(x_at, width):
            place = (row * width + column).flatten(2).unsqueeze(2)
            values = flat.gather(3, place.expand(-1, -1, x.shape[2], -1))
            part = values * (share_y * share_x).flatten(2).unsqueeze(2)
            total = part if total is None else total + part
    assert total is not None
    return total.reshape(*x.shape[:3], *y_at.shape[2:])


def _beside(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The places before and behind every position, with their shares (0 outside)."""
    low = at.detach().floor()
    found = []
    for place, share in ((low, 1 - (at - low)), (low + 1, at - low)):
        inside = (place >= 0) & (place <= size - 1)
        held = torch.where(inside, share, torch.zeros_like(share))
        found.append((place.clamp(0, size - 1).long(), held))
    return found


def col2im(
    x: Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Blocks (N, C block, L) added up where they lie in the image (N, C, ...)."""
    block, image = ints(block_shape), ints(image_shape)
    rank = len(block)
    steps, spread = ones(strides, rank), ones(dilations, rank)
    padding = padding_of(image, block, steps, spread, pads, "NOTSET")
    full = [n + before + after for n, (before, after) in zip(image, padding, strict=True)]
    # Which place of the padded image every tap of every block falls on: (block, blocks).
    places = torch.arange(math.prod(full), device=x.device).reshape(full)
    for axis in range(rank):
        places = places.unfold(axis, (block[axis] - 1) * spread[axis] + 1, steps[axis])
        places = places[..., :: spread[axis]]
    places = places.permute(*range(rank, 2 * rank), *range(rank))
    values = x.reshape(x.shape[0], x.shape[1] // math.prod(block), -1)
    whole = x.new_zeros((*values.shape[:2], math.prod(full)))
    whole = whole.index_add(2, places.reshape(-1), values).reshape(*values.shape[:2], *full)
    return pad(whole, [(-before, -after) for before, after in padding])


ROWS: dict[str, Any] = {
    "Col2Im": col2im,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
}
