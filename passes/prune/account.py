"""What a network will cost once channels are gone, before anything is removed.

MACs of a node, elements of a constant and elements of an activation are products of axis sizes.
The size of an axis after removal is a count of the units left on it, so every cost is exact:

    cost(alive) = sum over terms of coefficient * product over axes of |units left on the axis|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

from graphopt.channels.axes import UnitAxis
from graphopt.channels.cut import Mask
from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.ir.cost import mac_axes, parameters_of
from graphopt.ir.graph import Constant, Node, Tensor
from graphopt.runtime.targets import Target


@dataclass(frozen=True)
class Totals:
    """What a network costs, per image."""

    macs: float
    parameters: float
    bytes: float  # of all parameters
    activations: float  # bytes of all results
    channels: float  # output channels of convolutions and matrix products
    latency: float = 0.0  # seconds: the roofline bound on a target, where one is given

    @classmethod
    def metrics(cls) -> tuple[str, ...]:
        """The names of what is counted."""
        return tuple(f.name for f in fields(cls))

    def of(self, metric: str) -> float:
        """One of them by name."""
        return float(getattr(self, metric))


Size: TypeAlias = "int | UnitAxis"  # an axis that can lose elements, or how many it has


class Account:
    """The costs of a graph as functions of which units are left."""

    def __init__(self, channels: Channels, target: Target | None = None) -> None:
        self._channels = channels
        self._terms = {m: _Terms() for m in Totals.metrics() if m != "latency"}
        self._roofline = None if target is None else _Roofline(target)
        self._counted: set[tuple[int, tuple[Size, ...]]] = set()
        for node in channels.graph.nodes:
            self._add_node(node)
        for site in channels.sweep.findings.sites:
            axis = channels.axis_of(site.labels)
            if site.role == "output" and axis is not None:
                self._terms["channels"].product([axis])
        for terms in self._terms.values():
            terms.close()
        if self._roofline is not None:
            self._roofline.close()

    def totals(self, alive: Mask) -> Totals:
        """The costs with the units in `alive`, a mask of length unit_count."""
        return self.totals_of(self.lengths_of(self._channels.axes.left(alive)))

    def lengths_of(self, left: Floats | Sequence[int]) -> Floats:
        """The lengths of all axes when so many units of every group are left."""
        return np.append(self._channels.axes.lengths_of(left), 1.0)

    def totals_of(self, lengths: Floats) -> Totals:
        """The costs with these lengths of axes (`lengths_of`)."""
        return Totals(**{metric: self.cost(metric, lengths) for metric in Totals.metrics()})

    def cost(self, metric: str, lengths: Floats) -> float:
        """One of the costs with these lengths of axes (`lengths_of`)."""
        if metric == "latency":
            return 0.0 if self._roofline is None else self._roofline.seconds(lengths)
        return self._terms[metric].sum(lengths)

    def without(self, removed: Vector | None = None) -> Totals:
        """The costs without the units in `removed`; of the whole network when it is left out."""
        alive = np.ones(self._channels.unit_count, bool)
        if removed is not None:
            alive[removed] = False
        return self.totals(alive)

    def _add_node(self, node: Node) -> None:
        sizes: dict[int, list[Size]] = {}
        for index, tensor in enumerate(node.inputs):
            if tensor.shape is not None and id(tensor) not in sizes:
                sizes[id(tensor)] = self._sizes(tensor, node, index)
        sizes.update((id(t), self._sizes(t)) for t in node.outputs if t.shape is not None)
        factors = mac_axes(node)
        multiplied = [sizes[id(t)][a] for t, a in factors]
        if factors:
            self._terms["macs"].product(multiplied)
        for tensor in node.outputs:
            if tensor.shape is not None and _itemsize(tensor):
                self._terms["activations"].product(sizes[id(tensor)], _itemsize(tensor))
        for tensor in node.inputs:
            if isinstance(tensor, Constant):
                self._add_constant(tensor, sizes[id(tensor)])
        if self._roofline is not None:
            moved = [
                (sizes[id(t)], _itemsize(t))
                for t in [*node.inputs, *node.outputs]
                if t.shape is not None and _itemsize(t)
            ]
            self._roofline.add(multiplied if factors else None, moved)

    def _add_constant(self, tensor: Tensor, sizes: list[Size]) -> None:
        """A constant once, and once more for every place that keeps other elements of it."""
        key = (id(tensor), tuple(sizes))
        if key not in self._counted and parameters_of(tensor):
            self._counted.add(key)
            self._terms["bytes"].product(sizes, tensor.values.dtype.itemsize)
            self._terms["parameters"].product(sizes)

    def _sizes(self, tensor: Tensor, reader: Node = None, index: int = 0) -> list[Size]:
        """The size of every axis of a tensor, as this reader sees it."""
        dims: list[Size] = [d if isinstance(d, int) else 1 for d in tensor.shape]
        for axis, found in self._channels.losing(tensor, reader, index):
            dims[axis] = found
        return dims


def _itemsize(tensor: Tensor) -> int:
    return int(getattr(tensor.dtype, "itemsize", 0) or 0)


class _Roofline:
    """The sum over nodes of max(MACs / peak, bytes / bandwidth), with every tensor moved once."""

    def __init__(self, target: Target) -> None:
        self._macs, self._bytes = _Terms(), _Terms()
        self._node_of_bytes: list[int] = []
        self._nodes = 0
        self._target = target

    def add(self, macs: Sequence[Size] | None, moved: Sequence[tuple[Sequence[Size], int]]) -> None:
        """One node: the sizes its MACs are the product of, and its tensors with bytes per element."""
        self._macs.product(macs or [], 1 if macs is not None else 0)
        for sizes, itemsize in moved:
            self._bytes.product(sizes, itemsize)
            self._node_of_bytes.append(self._nodes)
        self._nodes += 1

    def close(self) -> None:
        """All nodes are in."""
        self._macs.close()
        self._bytes.close()

    def seconds(self, lengths: Floats) -> float:
        """The bound for these axis lengths."""
        moved = np.bincount(
            self._node_of_bytes, weights=self._bytes.each(lengths), minlength=self._nodes
        )
        pace = self._target
        computing = self._macs.each(lengths) / pace.macs_per_second
        moving = moved / (pace.gigabytes_per_second * 1e9)
        return float(np.maximum(computing, moving).sum())


class _Terms:
    """A sum of products of axis lengths."""

    def __init__(self) -> None:
        self._coefficients: list[float] = []
        self._factors: list[list[int]] = []

    def product(self, sizes: Sequence[Size], coefficient: float = 1) -> None:
        """Adds the product of sizes, times a coefficient."""
        fixed, factors = 1, []
        for size in sizes:
            if isinstance(size, int):
                fixed *= size
            else:
                factors.append(size.index)
        self._coefficients.append(coefficient * fixed)
        self._factors.append(factors)

    def close(self) -> None:
        """All terms are in."""
        width = max((len(f) for f in self._factors), default=0)
        none = -1  # the last length, which is 1
        rows = [f + [none] * (width - len(f)) for f in self._factors]
        self._table = np.array(rows, np.int64).reshape(len(rows), width).T.copy()
        self._scale = np.array(self._coefficients, np.float64)

    def each(self, lengths: Floats) -> Floats:
        """Every term for these axis lengths, of which the last is 1."""
        return np.asarray(self._scale * lengths[self._table].prod(axis=0), np.float64)

    def sum(self, lengths: Floats) -> float:
        """The cost for these axis lengths."""
        return float(self.each(lengths).sum())
