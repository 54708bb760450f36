"""Channel groups: what can be removed, what goes with it, and what cannot go and why.

A *unit* is the smallest thing that can be removed: one union of labels, hence a set of slices
(constant, axis, index) that have to go together. A *group* is all units found on the same axes of
the same tensors, such as the 256 channels of a residual stream: within a group any choice of units
is as possible as any other, and while one unit of every group is left no tensor becomes empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.channels.cut import Mask
from graphopt.channels.labels import KEPT, Reason, Vector
from graphopt.channels.sweep import Sweep, vectors_of
from graphopt.ir.graph import Constant, Graph, Node, Tensor, label

KEPT_UNIT = -1  # the unit of an element that can never be removed


@dataclass(frozen=True)
class Member:
    """A constant's axis that can lose elements; `units` is the unit of every element.

    `name` is the constant's, followed by "@reader" where readers part: one that is read in several
    places can lose other elements in each, and is copied then.
    """

    name: str
    tensor: Tensor
    axis: int
    units: Vector


@dataclass(frozen=True)
class Group:
    """The numbers of units that stand on the same axes."""

    index: int
    units: Vector

    @property
    def size(self) -> int:
        """How many units there are to choose from."""
        return len(self.units)


@dataclass(frozen=True)
class Held:
    """Output channels of a layer that cannot be removed: which, and why."""

    layer: str
    channels: Vector
    of: int
    reason: Reason


class Channels:
    """The channel groups of a graph in normal form."""

    def __init__(self, graph: Graph, *, share: bool = True, rewrite: bool = True) -> None:
        """Analyzes `graph`.

        Args:
            graph: left as it is, but for annotated sizes that turn out to be known.
            share: whether weights that are read in several places stay shared, which couples these
                places; otherwise each place gets a copy of its own when channels are removed.
            rewrite: whether sizes and positions written in the graph (a Split, a Pad) may change.
                They may not where the graph stands for Python code that will run on.
        """
        self.graph = graph
        self.share, self.rewrite = share, rewrite
        self.sweep = Sweep(graph, share=share)
        if not rewrite:
            self.sweep.hold_written_sizes()
        self._unit_of_label, self.unit_count = self._number_units()

    def of(self, twin: Graph) -> Channels:
        """The same analysis of a copy of the graph."""
        return Channels(twin, share=self.share, rewrite=self.rewrite)

    def _number_units(self) -> tuple[Vector, int]:
        labels = self.sweep.labels
        roots = labels.find(np.arange(len(labels), dtype=np.int64))
        # Only what a weight writes or reads is worth removing.
        free = np.zeros(len(labels), bool)
        for site in self.sweep.findings.sites:
            if site.role in ("output", "input"):
                free[roots[site.labels]] = True
        free[KEPT] = False
        free[labels.frozen_roots()] = False
        live = np.unique(roots[free[roots]])
        unit_of_root = np.full(len(labels), KEPT_UNIT, np.int64)
        unit_of_root[live] = np.arange(len(live))
        return unit_of_root[roots], len(live)

    def units_of(self, labels: Vector) -> Vector:
        """The unit of each label; KEPT_UNIT where nothing can be removed."""
        return self._unit_of_label[labels]

    def gone(self, removed: Iterable[int] | Vector) -> Mask:
        """Which units are among `removed`, as a mask that also answers for KEPT_UNIT."""
        mask: Mask = np.zeros(self.unit_count + 1, bool)
        mask[np.asarray(removed, np.int64)] = True
        mask[KEPT_UNIT] = False
        return mask

    @cached_property
    def members(self) -> list[Member]:
        """Every axis of a constant that can lose elements."""
        places: dict[tuple[int, int], list[tuple[Tensor, Node, Vector]]] = defaultdict(list)
        for tensor, reader, _, axes in self.sweep.tensors():
            if isinstance(tensor, Constant):
                for axis, vector in vectors_of(axes):
                    places[id(tensor), axis].append((tensor, reader, self.units_of(vector)))
        found: list[Member] = []
        for (_, axis), read in places.items():
            together = all(np.array_equal(units, read[0][2]) for _, _, units in read)
            for tensor, reader, units in read[:1] if together else read:
                if (units != KEPT_UNIT).any():
                    name = tensor.name if together else f"{tensor.name}@{label(reader)}"
                    found.append(Member(name, tensor, axis, units))
        return found

    @cached_property
    def vectors(self) -> list[Vector]:
        """The units along every axis that can lose elements, each distinct axis once."""
        distinct: dict[int, Vector] = {}
        for _, _, _, axes in self.sweep.tensors():
            distinct.update((id(v), v) for _, v in vectors_of(axes))
        units = [self.units_of(v) for v in distinct.values()]
        return [u for u in units if (u != KEPT_UNIT).any()]

    @cached_property
    def groups(self) -> list[Group]:
        """All groups, in the order of their first unit."""
        # A unit's axes, as a sum of random numbers: equal sums are equal sets of axes.
        rng = np.random.default_rng(0)
        marks = np.zeros((self.unit_count, 2), np.uint64)
        for units in self.vectors:
            mark = rng.integers(1, 2**63, 2, dtype=np.uint64)
            np.add.at(marks, units[units != KEPT_UNIT], mark)
        _, first, which = np.unique(marks, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))[which.reshape(-1)]
        order = np.argsort(rank, kind="stable")
        bounds = np.searchsorted(rank[order], np.arange(len(first) + 1))
        return [
            Group(i, order[bounds[i] : bounds[i + 1]].astype(np.int64)) for i in range(len(first))
        ]

    @cached_property
    def group_of_unit(self) -> Vector:
        """The group of each unit."""
        found = np.zeros(self.unit_count, np.int64)
        for group in self.groups:
            found[group.units] = group.index
        return found

    def groups_on(self, units: Vector) -> list[int]:
        """The groups that units along an axis belong to, ascending."""
        return [int(g) for g in np.unique(self.group_of_unit[units[units != KEPT_UNIT]])]

    # --- telling --------------------------------------------------------------------------------

    def held(self) -> Iterator[Held]:
        """What layers have to keep, with the first reason for every channel."""
        labels = self.sweep.labels
        reason_of: dict[int, Reason] = {}
        for vector, reason in labels.frozen:
            for root in np.unique(labels.find(vector)).tolist():
                reason_of.setdefault(root, reason)
        for site in self.sweep.findings.sites:
            if site.role != "output":
                continue
            at = np.flatnonzero(self.units_of(site.labels) == KEPT_UNIT)
            roots = labels.find(site.labels[at]).tolist()
            reasons = [reason_of.get(r) for r in roots]
            for reason in dict.fromkeys(r for r in reasons if r is not None):
                which = at[[r is reason for r in reasons]]
                yield Held(label(site.node), which, len(site.labels), reason)

    def couplings(self) -> list[list[str]]:
        """For each group, the nodes through which its channels are coupled."""
        through: list[dict[str, None]] = [{} for _ in self.groups]
        for vector, where in self.sweep.labels.unions:
            units = self.units_of(vector)
            for group in np.unique(self.group_of_unit[units[units != KEPT_UNIT]]).tolist():
                through[group][where] = None
        return [list(t) for t in through]
