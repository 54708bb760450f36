"""Operators that move values and compute none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.slots import Ints, Scalar, axis_of, ints, number


def reshape(data: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """The same values in another shape; 0 keeps the dimension of the input, -1 is worked out."""
    wanted = ints(shape)
    if not allowzero:
        wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return data.reshape(wanted)


def transpose(data: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Axis i of the result is axis perm[i] of the input; all reversed when left out."""
    return data.permute(list(perm) if perm is not None else list(range(data.dim()))[::-1])


def flatten(data: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: those before `axis`, and the rest."""
    cut = axis_of(axis, data.dim())
    if cut == 1:  # the batch stays whatever it is
        return data.reshape(data.shape[0], -1) if data.numel() else data.flatten(1)
    return data.reshape(math.prod(data.shape[:cut]), math.prod(data.shape[cut:]))


def squeeze(data: Tensor, axes: Ints | None = None) -> Tensor:
    """Without the axes, which have length 1; without all of length 1 when left out."""
    return data.squeeze() if axes is None else data.squeeze(tuple(ints(axes)))


def unsqueeze(data: Tensor, axes: Ints) -> Tensor:
    """With axes of length 1 where the result's axes are named."""
    wanted = ints(axes)
    rank = data.dim() + len(wanted)
    for axis in sorted(axis_of(a, rank) for a in wanted):
        data = data.unsqueeze(axis)
    return data


def concat(*inputs: Tensor, axis: int) -> Tensor:
    """One behind the other along an axis."""
    return torch.cat(inputs, axis)


def split(
    data: Tensor,
    split: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: int,
) -> Sequence[Tensor]:
    """In pieces of the given lengths, or of equal lengths (the last may be shorter, even empty)."""
    if split is not None:
        return data.split(ints(split), axis)
    size, count = data.shape[axis], num_outputs or outputs
    each = -(-size // count)
    return data.split([max(0, min(each, size - k * each)) for k in range(count)], axis)


def slice_(
    data: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    """From start to end in steps along the axes; a negative step runs backwards."""
    first, last = ints(starts), ints(ends)
    along = ints(axes) if axes is not None else list(range(len(first)))
    by = ints(steps) if steps is not None else [1] * len(first)
    cuts = [slice(None)] * data.dim()
    backwards = []
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        axis = axis_of(axis, data.dim())
        if step > 0:
            cuts[axis] = slice(start, end, step)
        else:
            backwards.append((axis, start, end, step))
    data = data[tuple(cuts)]
    for axis, start, end, step in backwards:
        # torch cannot step backwards: the positions are written out.
        size = data.shape[axis]
        first_at = min(max(start + size if start < 0 else start, 0), size - 1)
        end_at = min(max(end + size if end < 0 else end, -1), size - 1)
        chosen = list(range(first_at, end_at, step))
        data = data.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=data.device))
    return data


def pad(
    data: Tensor,
    pads: Ints,
    constant_value: Scalar | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """With values before and after along the axes; negative padding cuts off."""
    rank = data.dim()
    amounts = ints(pads)
    along = [axis_of(a, rank) for a in ints(axes)] if axes is not None else list(range(rank))
    pairs = [(0, 0)] * rank
    for i, axis in enumerate(along):
        pairs[axis] = (amounts[i], amounts[i + len(along)])
    if mode == "constant":
        value = 0 if constant_value is None else number(constant_value)
        return functional.pad(data, [n for pair in reversed(pairs) for n in pair], value=value)
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            data = data.index_select(
                axis, _mirrored(data.shape[axis], before, after, mode, data.device)
            )
    return data


def _mirrored(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Which position every element of a padded axis is taken from."""
    at = torch.arange(-before, size + after, device=device)
    if mode == "edge":
        return at.clamp(0, size - 1)
    if mode == "wrap":
        return at % size
    period = max(2 * (size - 1), 1)
    folded = at % period
    return torch.where(folded < size, folded, period - folded)


def expand(data: Tensor, shape: Ints) -> Tensor:
    """Repeated along axes of length 1, to what both shapes broadcast to."""
    return data.expand(torch.broadcast_shapes(data.shape, tuple(ints(shape))))


def tile(data: Tensor, repeats: Ints) -> Tensor:
    """Repeated as a whole along every axis."""
    return data.repeat(ints(repeats))


def depth_to_space(data: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """(N, C b b, H, W) -> (N, C, H b, W b)."""
    if mode == "CRD":
        return functional.pixel_shuffle(data, blocksize)
    n, c, h, w = data.shape
    parts = data.reshape(n, blocksize, blocksize, c // blocksize**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * blocksize, w * blocksize)


def space_to_depth(data: Tensor, *, blocksize: int) -> Tensor:
    """(N, C, H b, W b) -> (N, b b C, H, W)."""
    n, c, h, w = data.shape
    parts = data.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // blocksize, w // blocksize)


def lower_or_upper(data: Tensor, k: Scalar | None = None, *, upper: int = 1) -> Tensor:
    """The triangle of a matrix above (or below) its k-th diagonal."""
    diagonal = 0 if k is None else int(number(k))
    return torch.triu(data, diagonal) if upper else torch.tril(data, diagonal)


def center_crop_pad(data: Tensor, shape: Ints, *, axes: Sequence[int] | None = None) -> Tensor:
    """The middle of the data, or the data in the middle of zeros; rounded to the left."""
    along = [axis_of(a, data.dim()) for a in axes] if axes is not None else range(data.dim())
    pairs = [(0, 0)] * data.dim()
    for axis, wanted in zip(along, ints(shape), strict=True):
        missing = wanted - data.shape[axis]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        pairs[axis] = (before, missing - before)
    return functional.pad(data, [n for pair in reversed(pairs) for n in pair])


ROWS: dict[str, Any] = {
    "CenterCropPad": center_crop_pad,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": lower_or_upper,
    "Unsqueeze": unsqueeze,
}
