"""The axes that can lose elements, each distinct one once, and what their units have in common.

Most tensors of a network share a few dozen axes. Counting, cutting and telling look at these instead
of at every tensor. All units of a group stand on the same axes equally often, so that the length of
an axis follows from how many units of each group are left:

    length(axis) = fixed + sum over groups on it of times * units left of the group
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.channels.cut import Mask
from graphopt.channels.labels import Floats, Vector

KEPT_UNIT = -1  # the unit of an element that can never be removed


@dataclass(frozen=True)
class Group:
    """The numbers of units that stand on the same axes."""

    index: int
    units: Vector

    @property
    def size(self) -> int:
        """How many units there are to choose from."""
        return len(self.units)


@dataclass(frozen=True, eq=False)
class UnitAxis:
    """An axis that can lose elements, wherever it occurs.

    Attributes:
        index: its number.
        units: the unit of every element.
        fixed: how many elements can never go.
        groups: the groups on it, ascending, and how many elements each of their units has.
    """

    index: int
    units: Vector
    fixed: int
    groups: tuple[tuple[int, int], ...]


class AxisTable:
    """All axes of an analyzed graph, and the groups of its units."""

    def __init__(self, labels: Iterable[Vector], unit_of_label: Vector, unit_count: int) -> None:
        """Collects the axes.

        Args:
            labels: the labels along axes of tensors; those of one axis may come several times.
            unit_of_label: the unit of each label.
            unit_count: how many units there are.
        """
        distinct = list({id(v): v for v in labels}.values())
        filled = [v for v in distinct if len(v)]
        sizes = np.array([len(v) for v in filled], np.int64)
        start = np.cumsum(sizes) - sizes
        every = unit_of_label[np.concatenate([np.zeros(0, np.int64), *filled])]
        marks = np.add.reduceat(_marks(every, start, sizes, unit_count), start)
        losing = np.maximum.reduceat(every, start) != KEPT_UNIT
        numbers: dict[int, int] = {}
        found: list[Vector] = []
        number_of: dict[int, int] = {}
        for k in np.flatnonzero(losing).tolist():
            number = numbers.setdefault(int(marks[k]), len(found))
            if number == len(found):
                found.append(every[start[k] : start[k] + sizes[k]])
            number_of[id(filled[k])] = number
        self._unit_count = unit_count
        self._which = np.repeat(np.arange(len(found)), [len(u) for u in found])
        self._units = np.concatenate([np.zeros(0, np.int64), *found])
        self.groups = self._grouped(len(found))
        self.group_of_unit: Vector = np.zeros(unit_count, np.int64)
        for group in self.groups:
            self.group_of_unit[group.units] = group.index
        self.axes = self._axes(found)
        self._labels = distinct  # held: the id of an array that is gone may be given out again
        self._axis_of: dict[int, UnitAxis | None] = dict.fromkeys(map(id, distinct))
        self._axis_of.update((key, self.axes[number]) for key, number in number_of.items())

    def of(self, labels: Vector) -> UnitAxis | None:
        """The axis with these labels (the very array), or None when it loses nothing."""
        return self._axis_of[id(labels)]

    def on(self, axes: Sequence[Vector | None]) -> list[tuple[int, UnitAxis]]:
        """The axes of a tensor that can lose elements, by place, from their labels."""
        axis_of, found = self._axis_of, []
        for place, labels in enumerate(axes):
            if labels is not None and (axis := axis_of[id(labels)]) is not None:
                found.append((place, axis))
        return found

    def left(self, alive: Mask) -> Floats:
        """How many units of every group are in `alive`."""
        counts = np.bincount(self.group_of_unit, weights=alive, minlength=len(self.groups))
        return np.asarray(counts, np.float64)

    def lengths(self, alive: Mask) -> Floats:
        """How long every axis is when the units in `alive` are left."""
        return self.lengths_of(self.left(alive))

    def lengths_of(self, left: Floats | Sequence[int]) -> Floats:
        """How long every axis is when so many units of every group are left."""
        axis, group, times = self._pairs
        counts = np.bincount(
            axis, weights=times * np.asarray(left)[group], minlength=len(self.axes)
        )
        return np.asarray(self._fixed + counts, np.float64)

    def _grouped(self, count: int) -> list[Group]:
        """All groups, in the order of their first unit."""
        # A unit's axes, as a sum of random numbers: equal sums are equal sets of axes.
        random = _random(count, seed=0)
        marks = np.zeros(self._unit_count, np.uint64)
        free = self._units != KEPT_UNIT
        np.add.at(marks, self._units[free], random[self._which[free]])
        start, length = _runs(marks)
        _, first, which = np.unique(marks[start], return_index=True, return_inverse=True)
        rank = np.repeat(np.argsort(np.argsort(first))[which.reshape(-1)], length)
        order = np.argsort(rank, kind="stable")
        bounds = np.searchsorted(rank[order], np.arange(len(first) + 1))
        return [
            Group(i, order[bounds[i] : bounds[i + 1]].astype(np.int64)) for i in range(len(first))
        ]

    def _axes(self, found: list[Vector]) -> list[UnitAxis]:
        free = self._units != KEPT_UNIT
        self._fixed = np.bincount(self._which[~free], minlength=len(found))
        count = max(len(self.groups), 1)
        keys = self._which[free] * count + self.group_of_unit[self._units[free]]
        start, length = _runs(keys)
        pairs, run = np.unique(keys[start], return_inverse=True)
        elements = np.bincount(run.reshape(-1), length, len(pairs)).astype(np.int64)
        axis, group = pairs // count, pairs % count
        sizes = np.array([g.size for g in self.groups], np.int64)
        times = elements // sizes[group] if len(group) else elements
        self._pairs = axis, group, times
        on: list[list[tuple[int, int]]] = [[] for _ in found]
        for a, g, t in zip(axis.tolist(), group.tolist(), times.tolist(), strict=True):
            on[a].append((g, t))
        fixed = self._fixed.tolist()
        return [UnitAxis(i, u, fixed[i], tuple(on[i])) for i, u in enumerate(found)]


def _marks(every: Vector, start: Vector, sizes: Vector, unit_count: int) -> Vector:
    """A number for every element; equal sums are equal units in equal places of an axis."""
    place = np.arange(len(every)) - np.repeat(start, sizes)
    of_place = _random(int(sizes.max(initial=0)), seed=1)
    marks: Vector = _random(unit_count + 1, seed=2)[every] * of_place[place]
    return marks


def _random(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(1, 2**63, count, dtype=np.uint64)


def _runs(values: np.ndarray[Any, Any]) -> tuple[Vector, Vector]:
    """Where stretches of equal values start, and how long they are."""
    start = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return start, np.diff(np.append(start, len(values)))
