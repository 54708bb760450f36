"""Taking channels out of a graph: constants sliced, sizes and positions rewritten, shapes corrected."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.channels.cut import Cut, Mask
from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.channels.rules import rule_for
from graphopt.channels.sweep import read_inside
from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_of, sweep

_BLOCK_BYTES = 1 << 18  # of a weight, cut at a time: fits in the second cache
_WIDE_BYTES = 16  # from here on a piece is worth an index of its own
_Cuts = list[tuple[int, Vector]]  # axes, ascending, and which places of them stay


def remove(channels: Channels, removed: Vector) -> None:
    """Removes units from the analyzed graph, in place. The analysis does not fit it afterwards.

    Args:
        channels: the analysis of the graph to edit.
        removed: the numbers of the units that go.
    """
    _Removal(channels, removed).run()


class _Removal:
    def __init__(self, channels: Channels, removed: Vector) -> None:
        self._graph: Graph = channels.graph
        self._channels = channels
        self._inside = read_inside(self._graph)
        gone = channels.gone(removed)
        self._kept_on = [_or_none(~gone[a.units]) for a in channels.axes.axes]
        # Many tensors share an axis: its positions are worked out once.
        self._places_on = [None if m is None else np.flatnonzero(m) for m in self._kept_on]
        self._any = bool(gone.any())

    def run(self) -> None:
        """Sizes first, while shapes are still those from before; then constants and shapes."""
        for node in list(self._graph.nodes):
            rule = rule_for(node)
            if rule is None or rule.shrink is None or not self._any:
                continue
            if self._loses(node) or _computes(node, rule.size_input):
                rule.shrink(Cut(self._graph, node, self._kept))
        self._slice_all()
        self._graph.forget_names()
        sweep(self._graph)

    def _kept(self, tensor: Tensor, reader: Node, index: int, axis: int) -> Mask | None:
        for each, found in self._channels.losing(tensor, reader, index):
            if each == axis % len(tensor.shape):
                return self._kept_on[found.index]
        return None

    def _loses(self, node: Node) -> bool:
        read = [self._channels.losing(t, node, i) for i, t in enumerate(node.inputs)]
        made = [self._channels.losing(t) for t in node.outputs]
        axes = (axis for losing in [*read, *made] for _, axis in losing)
        return any(self._kept_on[axis.index] is not None for axis in axes)

    def _slice_all(self) -> None:
        uses: dict[int, list[_Use]] = {}
        for tensor, reader, index, _ in self._channels.labelled:
            cuts = []
            for axis, found in self._channels.losing(tensor, reader, index):
                places = self._places_on[found.index]
                if places is not None:
                    cuts.append((axis, places))
            if isinstance(tensor, Constant):
                uses.setdefault(id(tensor), []).append(_Use(tensor, reader, index, cuts))
            elif cuts:
                tensor.shape = _shape_after(tensor, cuts)
        for each in uses.values():
            self._slice(each)

    def _slice(self, uses: list[_Use]) -> None:
        """One constant for all places that keep the same of it; the first of them has its name."""
        if not any(use.cuts for use in uses):
            return
        tensor = uses[0].tensor
        alike: dict[bytes, list[_Use]] = defaultdict(list)
        for use in uses:
            alike[use.key if len(uses) > 1 else b""].append(use)
        if len(alike) == 1 and id(tensor) not in self._inside:
            tensor.values = _cut(tensor.values, uses[0].cuts)
            return
        for same in alike.values():
            if not same[0].cuts:
                continue  # goes on reading the old constant
            name = self._graph.fresh_name(tensor.name)
            copy = Constant(name, _cut(tensor.values, same[0].cuts))
            for use in same:
                use.reader.inputs[use.index] = copy


def _or_none(kept: Mask) -> Mask | None:
    return None if kept.all() else kept


def _computes(node: Node, index: int | None) -> bool:
    """Whether input `index` is given, and not as a constant."""
    source = None if index is None else input_of(node, index)
    return source is not None and not isinstance(source, Constant)


@dataclass(frozen=True)
class _Use:
    """A place a constant is read in, and what stays of each axis there."""

    tensor: Tensor
    reader: Node
    index: int
    cuts: _Cuts

    @property
    def key(self) -> bytes:
        return b"|".join(b"%d:" % axis + places.tobytes() for axis, places in self.cuts)


def _shape_after(tensor: Tensor, cuts: _Cuts) -> list[Any]:
    shape = list(tensor.shape)
    for axis, places in cuts:
        shape[axis] = len(places)
    return shape


def _cut(values: Any, cuts: _Cuts) -> Any:
    """The kept elements; a transposed array stays one and is cut as it lies in memory."""
    if values.ndim == 1:
        return values.take(cuts[0][1])
    if values.flags.f_contiguous and not values.flags.c_contiguous:
        turned = [(values.ndim - 1 - axis, places) for axis, places in reversed(cuts)]
        return _sliced(values.T, turned).T
    return _sliced(values, cuts)


def _sliced(values: Any, cuts: _Cuts) -> Any:
    """The kept elements, in row order."""
    values = np.ascontiguousarray(values)
    if len(cuts) > 1 and cuts[0][0] == 0 and values.nbytes > _BLOCK_BYTES:
        return _sliced_in_blocks(values, cuts[0][1], cuts[1:])
    for axis, places in cuts:
        values = values.take(places, axis=axis)
    return values


def _sliced_in_blocks(values: Any, rows: Vector, cuts: _Cuts) -> Any:
    """Some rows at a time: what lies between two cuts stays in the processor's cache."""
    shape = [len(rows), *values.shape[1:]]
    for axis, places in cuts:
        shape[axis] = len(places)
    found = np.empty(shape, values.dtype)
    count = max(1, min(len(rows), _BLOCK_BYTES // values[0].nbytes))
    is_wide = len(cuts) == 1 and cuts[0][0] == 1 and values[0, 0].nbytes >= _WIDE_BYTES
    block = np.empty([count, *values.shape[1:]], values.dtype)
    for start in range(0, len(rows), count):
        some, out = rows[start : start + count], found[start : start + count]
        if is_wide:
            _take_pieces(values, some, cuts[0][1], out)
        else:
            _take_twice(values, some, cuts, block[: len(some)], out)
    return found


def _take_pieces(values: Any, rows: Vector, columns: Vector, out: Any) -> None:
    """values[rows][:, columns] with nothing between, for pieces worth an index each."""
    pieces = values.reshape(-1, *values.shape[2:])
    at = rows[:, None] * values.shape[1] + columns
    # With "raise" numpy would write to a copy of the output first.
    pieces.take(at, axis=0, out=out, mode="clip")


def _take_twice(values: Any, rows: Vector, cuts: _Cuts, block: Any, out: Any) -> None:
    part = values.take(rows, axis=0, out=block, mode="clip")
    for axis, places in cuts[:-1]:
        part = part.take(places, axis=axis)
    last, places = cuts[-1]
    part.take(places, axis=last, out=out, mode="clip")
