"""Tensors that are a piece of another one along one axis, by Split or by Slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.ir.graph import Node, Tensor, input_value, produced_by, rank_of
from graphopt.passes.simplify.slices import slice_ranges


@dataclass(frozen=True)
class Piece:
    """What a tensor is: `source` from `start` to `stop` along `axis`."""

    tensor: Tensor
    source: Tensor
    axis: int
    start: int
    stop: int

    @property
    def is_all(self) -> bool:
        """Whether the piece is the whole source."""
        return self.start == 0 and self.stop == self.source.shape[self.axis]


def sizes_of(split: Node) -> list[int] | None:
    """How long the pieces of a Split are, or None when only run time knows."""
    axis, given = axis_of(split), input_value(split, 1)
    if given is not None:
        return [int(s) for s in given]
    sizes = [None if t.shape is None or axis is None else t.shape[axis] for t in split.outputs]
    known = [s for s in sizes if isinstance(s, int)]
    return known if len(known) == len(sizes) else None


def piece_of(tensor: Tensor) -> Piece | None:
    """The tensor as a piece of another, or None."""
    maker = produced_by(tensor, "Split", "Slice")
    if maker is None or maker.inputs[0].shape is None:
        return None
    source = maker.inputs[0]
    if maker.op == "Split":
        axis, sizes = axis_of(maker), sizes_of(maker)
        if axis is None or sizes is None:
            return None
        index = next(i for i, t in enumerate(maker.outputs) if t is tensor)
        start = sum(sizes[:index])
        return Piece(tensor, source, axis, start, start + sizes[index])
    ranges = slice_ranges(maker)
    if ranges is None or len(ranges) != 1:
        return None
    axis, (first, last, step) = ranges[0]
    size = source.shape[axis]
    if step != 1 or not isinstance(size, int):
        return None
    start, stop, _ = slice(first, last).indices(size)
    return Piece(tensor, source, axis, start, stop) if start < stop else None


def axis_of(node: Node) -> int | None:
    """The axis of a Concat or Split counted from the front, or None when the rank is unknown."""
    rank = rank_of(node.inputs[0])
    return None if rank is None else int(node.attrs.get("axis", 0)) % max(rank, 1)


Candidate: TypeAlias = "tuple[Tensor, Piece | None]"


def runs(inputs: Sequence[Candidate], axis: int | None) -> Iterator[list[Candidate]]:
    """The inputs in groups: neighbouring pieces of one tensor together, every other one alone."""
    run: list[Candidate] = []
    for tensor, piece in inputs:
        last = run[-1][1] if run else None
        follows = (
            piece is not None
            and last is not None
            and piece.axis == last.axis == axis
            and piece.source is last.source
            and piece.start == last.stop
        )
        if run and not follows:
            yield run
            run = []
        run.append((tensor, piece))
    yield run


def joined(run: list[Candidate]) -> Piece | None:
    """A run of two pieces or more as one, or None."""
    first, last = run[0][1], run[-1][1]
    if len(run) < 2 or first is None or last is None:
        return None
    return Piece(first.tensor, first.source, first.axis, first.start, last.stop)
