"""Sequences of tensors, as Python lists. Exports of torch.chunk and torch.split hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphopt.fx.slots import Ints, Scalar, ints, number


def construct(*inputs: Tensor) -> list[Tensor]:
    """The inputs as a sequence."""
    return list(inputs)


def split_to_sequence(
    data: Tensor, split: Ints | None = None, *, axis: int = 0, keepdims: int = 1
) -> list[Tensor]:
    """Pieces of the given lengths, of one length (the last may be shorter), or of length 1."""
    if split is None:
        return list(data.split(1, axis) if keepdims else data.unbind(axis))
    lengths = ints(split)
    is_one = split.dim() == 0 if isinstance(split, Tensor) else len(lengths) == 1
    if is_one and lengths[0] < data.shape[axis]:
        return list(data.split(lengths[0], axis))
    return list(data.split(lengths, axis))


def at(sequence: list[Tensor], position: Scalar) -> Tensor:
    """One element; negative positions count from the end."""
    return sequence[int(number(position))]


def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """The elements one behind the other along an axis, or along a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


def length(sequence: list[Tensor]) -> Tensor:
    """How many elements, on the CPU."""
    return torch.tensor(len(sequence), dtype=torch.int64)


ROWS: dict[str, Any] = {
    "ConcatFromSequence": concat_from_sequence,
    "SequenceAt": at,
    "SequenceConstruct": construct,
    "SequenceLength": length,
    "SplitToSequence": split_to_sequence,
}
