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
        axes = self._sweep.axes(tensor, reader, index)
        vector = None if axes is None else axes[axis]
        found = None if vector is None else self._channels.axis_of(vector)
        return None if found is None else self._kept_on[found.index]

    def _loses(self, node: Node) -> bool:
        inputs = [(t, node, i) for i, t in enumerate(node.inputs)]
        outputs = [(t, None, 0) for t in node.outputs]
        return any(
            self._kept(tensor, reader, index, axis) is not None
            for tensor, reader, index in [*inputs, *outputs]
            for axis in range(len(tensor.shape or []))
        )

    def _slice_all(self) -> None:
        uses: dict[int, list[_Use]] = defaultdict(list)
        for tensor, reader, index, axes in list(self._sweep.tensors()):
            masks = [self._kept(tensor, reader, index, a) for a in range(len(axes))]
            if isinstance(tensor, Constant):
                uses[id(tensor)].append(_Use(tensor, reader, index, masks))
            elif any(m is not None for m in masks):
                tensor.shape = _shape_after(tensor, masks)
        for each in uses.values():
            self._slice(each)

    def _slice(self, uses: list[_Use]) -> None:
        """One constant for all places that keep the same of it; the first of them has its name."""
        tensor = uses[0].tensor
        alike: dict[bytes, list[_Use]] = defaultdict(list)
        for use in uses:
            alike[use.key if len(uses) > 1 else b""].append(use)
        if len(alike) == 1 and (uses[0].is_whole or id(tensor) not in self._inside):
            tensor.values = _sliced(tensor.values, uses[0].masks)
            return
        for same in alike.values():
            if same[0].is_whole:
                continue  # goes on reading the old constant
            name = self._graph.fresh_name(tensor.name)
            copy = Constant(name, _sliced(tensor.values, same[0].masks))
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


def _sliced(values: Any, masks: list[Mask | None]) -> Any:
    """The kept elements; a transposed array is cut as it lies in memory, which is much faster."""
    if values.flags.f_contiguous and not values.flags.c_contiguous:
        return np.ascontiguousarray(_sliced(values.T, masks[::-1]).T)
    if sum(m is not None for m in masks) > 1 and masks[0] is not None:
        return _sliced_in_blocks(values, masks[0], masks)
    for axis, mask in enumerate(masks):
        if mask is not None:
            values = values.take(np.flatnonzero(mask), axis=axis)
    return np.ascontiguousarray(values)


def _sliced_in_blocks(values: Any, first: Mask, masks: list[Mask | None]) -> Any:
    """Some rows at a time: what lies between two cuts stays in the processor's cache."""
    rows = np.flatnonzero(first)
    found = np.empty([len(rows), *_shape_after(values, masks)[1:]], values.dtype)
    count = max(1, _BLOCK_BYTES // max(1, values[0].nbytes))
    for start in range(0, len(rows), count):
        block = values.take(rows[start : start + count], axis=0)
        found[start : start + count] = _sliced(block, [None, *masks[1:]])
    return found
