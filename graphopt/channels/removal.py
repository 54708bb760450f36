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

_BLOCK_BYTES = 1 << 18


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
        self._sweep = channels.sweep
        self._channels = channels
        self._inside = read_inside(self._graph)
        gone = channels.gone(removed)
        self._kept_on = [_or_none(~gone[a.units]) for a in channels.axes.axes]
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
        return self._masks(tensor, reader, index)[axis]

    def _masks(self, tensor: Tensor, reader: Node = None, index: int = 0) -> list[Mask | None]:
        """What stays of every axis of a tensor; None where all does."""
        masks: list[Mask | None] = [None] * len(tensor.shape or ())
        for axis, found in self._channels.losing(tensor, reader, index):
            masks[axis] = self._kept_on[found.index]
        return masks

    def _loses(self, node: Node) -> bool:
        read = [self._channels.losing(t, node, i) for i, t in enumerate(node.inputs)]
        made = [self._channels.losing(t) for t in node.outputs]
        axes = (axis for losing in [*read, *made] for _, axis in losing)
        return any(self._kept_on[axis.index] is not None for axis in axes)

    def _slice_all(self) -> None:
        uses: dict[int, list[_Use]] = defaultdict(list)
        for tensor, reader, index, _ in list(self._sweep.tensors()):
            masks = self._masks(tensor, reader, index)
            if isinstance(tensor, Constant):
                uses[id(tensor)].append(_Use(tensor, reader, index, masks))
            elif any(m is not None for m in masks):
                tensor.shape = _shape_after(tensor, masks)
        for each in uses.values():
            self._slice(each)

    def _slice(self, uses: list[_Use]) -> None:
        """One constant for all places that keep the same of it; the first of them has its name."""
        if all(use.is_whole for use in uses):
            return
        tensor = uses[0].tensor
        alike: dict[bytes, list[_Use]] = defaultdict(list)
        for use in uses:
            alike[use.key if len(uses) > 1 else b""].append(use)
        if len(alike) == 1 and id(tensor) not in self._inside:
            tensor.values = _cut(tensor.values, uses[0].masks)
            return
        for same in alike.values():
            if same[0].is_whole:
                continue  # goes on reading the old constant
            name = self._graph.fresh_name(tensor.name)
            copy = Constant(name, _cut(tensor.values, same[0].masks))
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
    masks: list[Mask | None]

    @property
    def is_whole(self) -> bool:
        return all(m is None for m in self.masks)

    @property
    def key(self) -> bytes:
        return b"|".join(b"" if m is None else m.tobytes() for m in self.masks)


def _shape_after(tensor: Tensor, masks: list[Mask | None]) -> list[Any]:
    return [
        d if m is None else int(np.count_nonzero(m))
        for d, m in zip(tensor.shape, masks, strict=True)
    ]


def _cut(values: Any, masks: list[Mask | None]) -> Any:
    """The kept elements; a transposed array stays one and is cut as it lies in memory."""
    if values.flags.f_contiguous and not values.flags.c_contiguous:
        return _sliced(values.T, masks[::-1]).T
    return _sliced(values, masks)


def _sliced(values: Any, masks: list[Mask | None]) -> Any:
    """The kept elements, in row order."""
    values = np.ascontiguousarray(values)
    cuts = [(axis, np.flatnonzero(m)) for axis, m in enumerate(masks) if m is not None]
    if len(cuts) > 1 and cuts[0][0] == 0:
        return _sliced_in_blocks(values, cuts[0][1], cuts[1:])
    for axis, places in cuts:
        values = values.take(places, axis=axis)
    return values


def _sliced_in_blocks(values: Any, rows: Vector, cuts: list[tuple[int, Vector]]) -> Any:
    """Some rows at a time: what lies between two cuts stays in the processor's cache."""
    *others, (last, places_last) = cuts
    count = max(1, min(len(rows), _BLOCK_BYTES // max(1, values[0].nbytes)))
    shape = [len(rows), *values.shape[1:]]
    block = np.empty([count, *shape[1:]], values.dtype)
    for axis, places in cuts:
        shape[axis] = len(places)
    found = np.empty(shape, values.dtype)
    for start in range(0, len(rows), count):
        some = rows[start : start + count]
        # With "raise" numpy would write to a copy of the output first.
        part = values.take(some, axis=0, out=block[: len(some)], mode="clip")
        for axis, places in others:
            part = part.take(places, axis=axis)
        part.take(places_last, axis=last, out=found[start : start + len(some)], mode="clip")
    return found
