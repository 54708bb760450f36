"""What a network will cost once channels are gone, before anything is removed.

MACs of a node, elements of a constant and elements of an activation are products of axis sizes.
The size of an axis after removal is a count of the units left on it, so every cost is exact:

    cost(alive) = sum over terms of coefficient * product over axes of |units left on the axis|
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from graphopt.channels.cut import Mask
from graphopt.channels.groups import KEPT_UNIT, Channels
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


class Account:
    """The costs of a graph as functions of which units are left."""

    def __init__(self, channels: Channels, target: Target | None = None) -> None:
        self._channels = channels
        self._axes = _AxisSizes(channels)
        self._terms = {m: _Terms(self._axes) for m in Totals.metrics() if m != "latency"}
        self._roofline = None if target is None else _Roofline(self._axes, target)
        for node in channels.graph.nodes:
            self._add_node(node)
        self._add_constants()
        for site in channels.sweep.findings.sites:
            if site.role == "output":
                self._terms["channels"].add(1, [self._axes.index(site.labels)])
        for terms in self._terms.values():
            terms.close()
        if self._roofline is not None:
            self._roofline.close()

    def totals(self, alive: Mask) -> Totals:
        """The costs with the units in `alive`, a mask of length unit_count."""
        sizes = self._axes.sizes(alive)
        latency = 0.0 if self._roofline is None else self._roofline.seconds(sizes)
        costs = {metric: terms.sum(sizes) for metric, terms in self._terms.items()}
        return Totals(**costs, latency=latency)

    def _add_node(self, node: Node) -> None:
        factors = mac_axes(node)
        multiplied = [self._size(node, t, a) for t, a in factors]
        if factors:
            self._terms["macs"].product(multiplied)
        if self._roofline is not None:
            moved = [
                ([self._size(node, t, a) for a in range(len(t.shape))], int(t.dtype.itemsize))
                for t in [*node.inputs, *node.outputs]
                if t.shape is not None and getattr(t.dtype, "itemsize", None)
            ]
            self._roofline.add(multiplied if factors else None, moved)
        for tensor in node.outputs:
            itemsize = getattr(tensor.dtype, "itemsize", 0) or 0
            if tensor.shape is not None and itemsize:
                sizes = [self._size(None, tensor, a) for a in range(len(tensor.shape))]
                self._terms["activations"].product(sizes, itemsize)

    def _add_constants(self) -> None:
        """Every constant once, and once more for every place that keeps other elements of it."""
        seen: set[tuple[int, tuple[bytes, ...]]] = set()
        for node in self._channels.graph.nodes:
            for tensor in node.inputs:
                if not isinstance(tensor, Constant):
                    continue
                sizes = [self._size(node, tensor, a) for a in range(len(tensor.shape))]
                key = (id(tensor), tuple(self._axes.content(s) for s in sizes))
                if key in seen:
                    continue
                seen.add(key)
                if parameters_of(tensor):
                    self._terms["bytes"].product(sizes, tensor.values.dtype.itemsize)
                    self._terms["parameters"].product(sizes)

    def _size(self, node: Node, tensor: Tensor, axis: int) -> _Size:
        index = next((i for i, t in enumerate(node.inputs) if t is tensor), 0) if node else 0
        axes = self._channels.sweep.axes(tensor, node, index)
        labels = None if axes is None else axes[axis]
        if labels is not None:
            number = self._axes.index(labels)
            if number is not None:
                return _Size(number=number)
        dim = tensor.shape[axis]
        return _Size(fixed=dim if isinstance(dim, int) else 1)


@dataclass(frozen=True)
class _Size:
    """The size of an axis: a number, or the number of an axis that can lose elements."""

    fixed: int = 1
    number: int | None = None


class _AxisSizes:
    """Every distinct axis that can lose elements, and how long it is for a choice of units."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._numbers: dict[int, int | None] = {}
        self._vectors: list[Vector] = []  # of units
        self._labels: list[Vector] = []  # kept so that their ids stay theirs
        self._pairs: tuple[Vector, Vector] | None = None

    def index(self, labels: Vector) -> int | None:
        """The number of an axis, or None when it loses nothing."""
        if id(labels) not in self._numbers:
            units = self._channels.units_of(labels)
            can = bool((units != KEPT_UNIT).any())
            self._numbers[id(labels)] = len(self._vectors) if can else None
            self._labels.append(labels)
            if can:
                self._vectors.append(units)
        return self._numbers[id(labels)]

    def content(self, size: _Size) -> bytes:
        """What makes two axes lose the same elements."""
        return b"" if size.number is None else self._vectors[size.number].tobytes()

    def sizes(self, alive: Mask) -> Floats:
        """The length of every axis, and a 1 for axes there are not."""
        if self._pairs is None:
            which = [np.full(len(v), k) for k, v in enumerate(self._vectors)]
            empty = [np.zeros(0, np.int64)]
            self._pairs = np.concatenate(which or empty), np.concatenate(self._vectors or empty)
        number, unit = self._pairs
        left = np.append(alive, True)[unit]  # KEPT_UNIT is the last
        counts = np.bincount(number, weights=left, minlength=len(self._vectors))
        return np.append(counts, 1.0)


class _Roofline:
    """The sum over nodes of max(MACs / peak, bytes / bandwidth), with every tensor moved once."""

    def __init__(self, axes: _AxisSizes, target: Target) -> None:
        self._macs, self._bytes = _Terms(axes), _Terms(axes)
        self._node_of_bytes: list[int] = []
        self._nodes = 0
        self._target = target

    def add(
        self, macs: Sequence[_Size] | None, moved: Sequence[tuple[Sequence[_Size], int]]
    ) -> None:
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

    def seconds(self, sizes: Floats) -> float:
        """The bound for these axis lengths."""
        moved = np.bincount(
            self._node_of_bytes, weights=self._bytes.each(sizes), minlength=self._nodes
        )
        pace = self._target
        computing = self._macs.each(sizes) / pace.macs_per_second
        moving = moved / (pace.gigabytes_per_second * 1e9)
        return float(np.maximum(computing, moving).sum())


class _Terms:
    """A sum of products of axis sizes."""

    def __init__(self, axes: _AxisSizes) -> None:
        self._axes = axes
        self._coefficients: list[float] = []
        self._factors: list[list[int]] = []

    def product(self, sizes: Sequence[_Size], coefficient: float = 1) -> None:
        """Adds the product of sizes, times a coefficient."""
        fixed = math.prod(s.fixed for s in sizes if s.number is None)
        self.add(coefficient * fixed, [s.number for s in sizes if s.number is not None])

    def add(self, coefficient: float, factors: Sequence[int | None]) -> None:
        """Adds a coefficient times the lengths of numbered axes; None is an axis that is not there."""
        if all(f is not None for f in factors):
            self._coefficients.append(coefficient)
            self._factors.append([f for f in factors if f is not None])

    def close(self) -> None:
        """All terms are in."""
        width = max((len(f) for f in self._factors), default=0)
        none = -1  # the last size, which is 1
        rows = [f + [none] * (width - len(f)) for f in self._factors]
        self._table = np.array(rows, np.int64).reshape(len(rows), width)
        self._scale = np.array(self._coefficients, np.float64)

    def each(self, sizes: Floats) -> Floats:
        """Every term for these axis lengths."""
        return np.asarray(self._scale * sizes[self._table].prod(axis=1), np.float64)

    def sum(self, sizes: Floats) -> float:
        """The cost for these axis lengths."""
        return float(self.each(sizes).sum())
