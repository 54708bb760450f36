"""What a network will cost once channels are gone, before anything is removed.

MACs of a node, elements of a constant and elements of an activation are products of axis sizes.
The size of an axis after removal is a count of the units left on it, so every cost is exact:

    cost(alive) = sum over terms of coefficient * product over axes of |units left on the axis|
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from graphopt.channels.axes import UnitAxis
from graphopt.channels.cut import Mask
from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.ir.cost import mac_axes, parameters_of
from graphopt.ir.graph import Constant, Node, Tensor
from graphopt.runtime.efficiency import kind_of, share_of
from graphopt.runtime.targets import Target


@dataclass(frozen=True)
class Totals:
    """What a network costs, per image."""

    macs: float
    parameters: float
    bytes: float  # of all parameters
    activations: float  # bytes of all results
    channels: float  # output channels of convolutions and matrix products
    latency: float = 0.0  # seconds: what it is predicted to take on a target, where one is given

    @classmethod
    def metrics(cls) -> tuple[str, ...]:
        """The names of what is counted."""
        return tuple(f.name for f in fields(cls))

    def of(self, metric: str) -> float:
        """One of them by name."""
        return float(getattr(self, metric))


class _Volume:
    """A product of sizes: a number times the lengths of axes that can lose elements."""

    def __init__(self, sizes: Sequence[int], losing: Sequence[tuple[int, UnitAxis]]) -> None:
        """From sizes, 1 in the places of those that can get smaller, and these by place."""
        self.sizes = sizes
        self.losing = losing
        self.fixed = math.prod(sizes)
        self.factors = [axis.index for _, axis in losing]

    @classmethod
    def of(cls, factors: Iterable[tuple[_Volume, int]]) -> _Volume:
        """The product of single sizes of others."""
        sizes: list[int] = []
        losing: list[tuple[int, UnitAxis]] = []
        for whole, at in factors:
            losing += [(len(sizes), axis) for place, axis in whole.losing if place == at]
            sizes.append(whole.sizes[at])
        return cls(sizes, losing)


class Account:
    """The costs of a graph as functions of which units are left."""

    def __init__(self, channels: Channels, target: Target | None = None) -> None:
        self._channels = channels
        self._terms = {m: _Terms() for m in Totals.metrics() if m != "latency"}
        self._roofline = None if target is None else _Roofline(target)
        self._counted: set[tuple[int, tuple[tuple[int, UnitAxis], ...]]] = set()
        self._volumes: dict[Hashable, _Volume] = {}
        for node in channels.graph.nodes:
            self._add_node(node)
        for site, axis in channels.sites:
            if site.role == "output" and axis is not None:
                self._terms["channels"].product(_Volume([1], [(0, axis)]))
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
        volumes: dict[int, _Volume] = {}
        for index, tensor in enumerate(node.inputs):
            if id(tensor) not in volumes and tensor.shape is not None:
                volume = volumes[id(tensor)] = self._volume(tensor, node, index)
                if isinstance(tensor, Constant):
                    self._add_constant(tensor, volume)
        for tensor in node.outputs:
            if tensor.shape is not None:
                volume = volumes[id(tensor)] = self._volume(tensor, None, 0)
                if itemsize := _itemsize(tensor):
                    self._terms["activations"].product(volume, itemsize)
        factors = mac_axes(node)
        macs = _Volume.of((volumes[id(t)], a) for t, a in factors) if factors else None
        if macs is not None:
            self._terms["macs"].product(macs)
        if self._roofline is not None:
            every = [t for t in [*node.inputs, *node.outputs] if t.shape is not None]
            moved = [(volumes[id(t)], _itemsize(t)) for t in every if _itemsize(t)]
            self._roofline.add(kind_of(node), macs, moved)

    def _add_constant(self, tensor: Tensor, volume: _Volume) -> None:
        """A constant once, and once more for every place that keeps other elements of it."""
        if len(tensor.outputs) > 1:
            key = (id(tensor), tuple(volume.losing))
            if key in self._counted:
                return
            self._counted.add(key)
        if parameters_of(tensor):
            self._terms["bytes"].product(volume, tensor.values.dtype.itemsize)
            self._terms["parameters"].product(volume)

    def _volume(self, tensor: Tensor, reader: Node, index: int) -> _Volume:
        """The size of every axis of a tensor, as this reader sees it."""
        key = self._channels.sweep.key(tensor, reader, index)
        found = self._volumes.get(key)
        if found is None:
            sizes = [d if isinstance(d, int) else 1 for d in tensor.shape]
            losing = self._channels.losing_of(key)
            for axis, _ in losing:
                sizes[axis] = 1
            found = self._volumes[key] = _Volume(sizes, losing)
        return found


def _itemsize(tensor: Tensor) -> int:
    return int(getattr(tensor.dtype, "itemsize", 0) or 0)


class _Roofline:
    """The sum over nodes of max(MACs / (peak * share), bytes / bandwidth), every tensor moved once.

    The share of the peak that kernels of a kind reach: see `runtime.efficiency`.
    """

    def __init__(self, target: Target) -> None:
        self._macs, self._bytes = _Terms(), _Terms()
        self._node_of_bytes: list[int] = []
        self._nodes = 0
        self._target = target

    def add(self, kind: str, macs: _Volume | None, moved: Sequence[tuple[_Volume, int]]) -> None:
        """One node: the kind of its product, its MACs, and its tensors with bytes per element."""
        slower = 1 / share_of(self._target, kind)
        self._macs.product(macs or _Volume([], []), slower if macs is not None else 0)
        for volume, itemsize in moved:
            self._bytes.product(volume, itemsize)
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

    def product(self, volume: _Volume, coefficient: float = 1) -> None:
        """Adds a product of sizes, times a coefficient."""
        self._coefficients.append(coefficient * volume.fixed)
        self._factors.append(volume.factors)

    def close(self) -> None:
        """All terms are in."""
        counts = np.array([len(f) for f in self._factors], np.int64)
        term = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(term)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Shorter products are filled up with the last length, which is 1.
        self._table = np.full((int(counts.max(initial=0)), len(counts)), -1)
        self._table[place, term] = [f for factors in self._factors for f in factors]
        self._scale = np.array(self._coefficients, np.float64)

    def each(self, lengths: Floats) -> Floats:
        """Every term for these axis lengths, of which the last is 1."""
        return np.asarray(self._scale * lengths[self._table].prod(axis=0), np.float64)

    def sum(self, lengths: Floats) -> float:
        """The cost for these axis lengths."""
        return float(self.each(lengths).sum())
