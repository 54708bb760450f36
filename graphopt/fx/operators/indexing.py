"""Reading and writing at computed positions, and the positions themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphopt.fx.slots import Scalar, axis_of, number

# How ONNX calls what torch's scatter_reduce calls otherwise.
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """data[..., indices, ...] along an axis; negative indices count from the end."""
    axis = axis_of(axis, data.dim())
    at = _from_front(indices, data.shape[axis])
    if at.dim() == 0:
        return data.index_select(axis, at.reshape(1)).squeeze(axis)
    flat = data.index_select(axis, at.reshape(-1))
    return flat.reshape(*data.shape[:axis], *at.shape, *data.shape[axis + 1 :])


def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """out[..., i, ...] = data[..., indices[..., i, ...], ...] along an axis."""
    return data.gather(axis, _from_front(indices, data.shape[axis]))


def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """out[i...] = data[indices[i..., :]], position by position behind the first `batch_dims` axes."""
    lead, depth = indices.shape[:-1], indices.shape[-1]
    flat = data.reshape(-1, *data.shape[batch_dims + depth :])
    at = _linear(indices, data.shape[batch_dims : batch_dims + depth])
    for axis in range(batch_dims):
        # What one step along this axis of the batch is worth among the places of `flat`.
        stride = 1
        for d in data.shape[axis + 1 : batch_dims + depth]:
            stride *= d
        own = torch.arange(lead[axis], device=at.device) * stride
        at = at + own.reshape([-1 if i == axis else 1 for i in range(len(lead))])
    return flat.index_select(0, at.reshape(-1)).reshape(*lead, *flat.shape[1:])


def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """data with out[..., indices[..., i, ...], ...] = updates[..., i, ...], or reduced with it."""
    at = _from_front(indices, data.shape[axis])
    new = updates.to(data.dtype)  # autocast may have made it narrower
    if reduction == "none":
        return data.scatter(axis, at, new)
    return data.scatter_reduce(axis, at, new, _REDUCTIONS[reduction], include_self=True)


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none"
) -> Tensor:
    """data with out[indices[i..., :]] = updates[i...], or reduced with it."""
    depth = indices.shape[-1]
    flat = data.reshape(-1, *data.shape[depth:])
    at = _linear(indices, data.shape[:depth]).reshape(-1)
    new = updates.to(data.dtype).reshape(-1, *data.shape[depth:])
    if reduction == "none":
        return flat.index_copy(0, at, new).reshape(data.shape)
    everywhere = at.reshape(-1, *[1] * (new.dim() - 1)).expand(new.shape)
    how = _REDUCTIONS[reduction]
    return flat.scatter_reduce(0, everywhere, new, how, include_self=True).reshape(data.shape)


def top_k(
    x: Tensor,
    k: Scalar,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002 - the attribute's name
) -> Sequence[Tensor]:
    """The k largest (smallest) values along an axis and where they stand; the first of equal ones."""
    # torch.topk leaves open which of equal values it takes, a stable sort does not.
    values, at = x.sort(dim=axis, descending=bool(largest), stable=True)
    count = int(number(k))
    return values.narrow(axis, 0, count), at.narrow(axis, 0, count)


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the first (last) of the largest values along an axis stands."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the first (last) of the smallest values along an axis stands."""
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmin(axis, keepdim=bool(keepdims))
    return x.argmin(axis, keepdim=bool(keepdims))


def cum_sum(x: Tensor, axis: Scalar, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """The sum of all before and at every place along an axis, or only before with `exclusive`."""
    along = axis_of(int(number(axis)), x.dim())
    if reverse:
        x = x.flip(along)
    sums = x.cumsum(along, dtype=x.dtype)
    if exclusive:
        # Moved on by one rather than less x, which would round.
        zero = torch.zeros_like(sums.narrow(along, 0, 1))
        sums = torch.cat([zero, sums.narrow(along, 0, x.shape[along] - 1)], along)
    return sums.flip(along) if reverse else sums


def one_hot(indices: Tensor, depth: Scalar, values: Tensor, *, axis: int = -1) -> Tensor:
    """values[1] at every index along a new axis of length `depth`, else values[0]."""
    count = int(number(depth))
    along = axis_of(axis, indices.dim() + 1)
    at = _from_front(indices, count).unsqueeze(along)
    places = torch.arange(count, device=indices.device)
    hit = at == places.reshape([-1 if i == along else 1 for i in range(indices.dim() + 1)])
    return torch.where(hit, values[1], values[0])


def non_zero(x: Tensor) -> Tensor:
    """The positions of what is not 0, one per column."""
    return (x if x.dim() else x.reshape(1)).nonzero().mT


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0, kind: torch.dtype) -> Tensor:
    """1 on the k-th diagonal of a matrix shaped like x, else 0."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(kind)


def compress(data: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Those along an axis for which the condition holds, of all values when it is left out."""
    if axis is None:
        data, axis = data.reshape(-1), 0
    return data.index_select(axis, condition.nonzero().squeeze(1))


def reverse_sequence(
    x: Tensor, sequence_lens: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """The first `sequence_lens[b]` along the time axis the other way round, the rest as it is."""
    times = torch.arange(x.shape[time_axis], device=x.device)
    ends = sequence_lens.long().unsqueeze(1)
    at = torch.where(times < ends, ends - 1 - times, times)  # (batch, time)
    if batch_axis > time_axis:
        at = at.mT
    shape = [x.shape[i] if i in (batch_axis, time_axis) else 1 for i in range(x.dim())]
    return x.gather(time_axis, at.reshape(shape).expand(x.shape))


def unique(
    x: Tensor,
    *,
    axis: int | None = None,
    sorted: int = 1,  # noqa: A002 - the attribute's name
    outputs: int = 1,
) -> Sequence[Tensor]:
    """The different values (slices along an axis), where each stands first, which is where, how often."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    _, where, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(len(where), device=x.device)
    first = torch.full_like(counts, len(where)).scatter_reduce(0, where, places, "amin")
    if not sorted:
        order = first.argsort()
        first, counts = first[order], counts[order]
        where = order.argsort()[where]
    # Chosen by position, so that gradients reach what was chosen.
    return (x.index_select(axis, first), first, where, counts)[:outputs]


def _from_front(indices: Tensor, size: int) -> Tensor:
    at = indices.long()
    return torch.where(at < 0, at + size, at)


def _linear(indices: Tensor, sizes: Sequence[int]) -> Tensor:
    """Positions with one number per axis as one number."""
    at = torch.zeros_like(indices[..., 0], dtype=torch.int64)
    for i, size in enumerate(sizes):
        at = at * size + _from_front(indices[..., i], size)
    return at


ROWS: dict[str, Any] = {
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "Compress": compress,
    "CumSum": cum_sum,
    "EyeLike": eye_like,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "Unique": unique,
}
