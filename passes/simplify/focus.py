"""Finds the strided slices that cut an image into k x k phases and stack them on the channels.

    Concat(x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2])

YOLO calls this Focus. It is SpaceToDepth, except that the phases may stand in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, produced_by, rank_of
from graphopt.passes.simplify.region import why_not_closed
from graphopt.passes.simplify.slices import OPEN_END, slice_ranges

_ROWS, _COLUMNS = 2, 3


@dataclass(frozen=True)
class Focus:
    """The phases of `source` in the order they are stacked: offsets (row, column) below `block`."""

    source: Tensor
    block: int
    offsets: tuple[tuple[int, int], ...]
    nodes: tuple[Node, ...]

    @property
    def channels(self) -> int:
        """How many channels the source has."""
        return int(self.source.shape[1])

    @property
    def order(self) -> np.ndarray[Any, Any]:
        """For every stacked channel, which channel of SpaceToDepth it is."""
        phases = np.array([row * self.block + column for row, column in self.offsets])
        return (phases[:, None] * self.channels + np.arange(self.channels)).reshape(-1)


def focus_of(graph: Graph, concat: Node) -> tuple[Focus | None, str | None]:
    """The Focus that ends in `concat`; or nothing and, where it nearly is one, the reason."""
    cuts = [_Cut(t) for t in concat.inputs]
    block = round(len(cuts) ** 0.5)
    source = cuts[0].source
    if block < 2 or block * block != len(cuts) or any(c.source is not source for c in cuts):
        return None, None
    if any(sorted(c.nodes_by_axis) != [_ROWS, _COLUMNS] or c.odd for c in cuts):
        return None, None
    if rank_of(source) != 4 or int(concat.attrs.get("axis", 0)) not in (1, -3):
        return None, "the slices are not stacked on the channels of an image"
    phases = [(_phase(c, _ROWS, block), _phase(c, _COLUMNS, block)) for c in cuts]
    offsets = tuple((r, c) for r, c in phases if r is not None and c is not None)
    if len(set(offsets)) != len(cuts):
        return None, f"the slices are not the {block} x {block} phases of the whole image"
    if not isinstance(source.shape[1], int):
        return None, "the number of channels is not a fixed number"
    nodes = {id(n): n for c in cuts for n in c.nodes_by_axis.values()}
    found = Focus(source, block, offsets, (concat, *nodes.values()))
    reason = why_not_closed(graph, found.nodes, concat.outputs[0])
    return (None, reason) if reason else (found, None)


class _Cut:
    """One stacked slice: what it cuts, and by which node on which axis (one Slice, or a chain)."""

    def __init__(self, tensor: Tensor) -> None:
        self.nodes_by_axis: dict[int, Node] = {}
        self.ranges: dict[int, tuple[int, int, int]] = {}
        self.odd = False  # an axis cut twice, or bounds that are computed
        self.source = tensor
        while (node := produced_by(self.source, "Slice")) is not None and not self.odd:
            self._read(node)
            self.source = node.inputs[0]

    def _read(self, node: Node) -> None:
        found = slice_ranges(node)
        axes = [a for a, _ in found] if found is not None else []
        self.odd = found is None or bool(self.nodes_by_axis.keys() & set(axes))
        for axis, bounds in found or ():
            self.nodes_by_axis[axis] = node
            self.ranges[axis] = bounds


def _phase(cut: _Cut, axis: int, block: int) -> int | None:
    """Which of the `block` phases of the whole axis the cut takes, or None when it is none."""
    start, end, step = cut.ranges[axis]
    size = cut.source.shape[axis]
    if isinstance(size, int):
        start, end = (v + size if v < 0 else v for v in (start, end))
        whole = size % block == 0 and min(end, size) > size - block + start
    else:
        # Of an unknown size only multiples of the block run: phases of other sizes differ in
        # length, and Concat rejects them.
        whole = end >= OPEN_END
    return start if step == block and 0 <= start < block and whole else None
