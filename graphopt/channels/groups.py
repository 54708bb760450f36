"""Channel groups: what can be removed, what goes with it, and what cannot go and why.

A *unit* is the smallest thing that can be removed: one union of labels, hence a set of slices
(constant, axis, index) that have to go together. A *group* is all units found on the same axes of
the same tensors, such as the 256 channels of a residual stream: within a group any choice of units
is as possible as any other, and while one unit of every group is left no tensor becomes empty.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.channels.axes import KEPT_UNIT, AxisTable, Group, UnitAxis
from graphopt.channels.cut import Mask
from graphopt.channels.labels import KEPT, Reason, Vector
from graphopt.channels.sweep import Sweep
from graphopt.channels.view import Site
from graphopt.ir.graph import Constant, Graph, Node, Tensor, label

__all__ = ["KEPT_UNIT", "Channels", "Group", "Held", "Member"]


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
        self.labelled = list(self.sweep.tensors())
        vectors = (v for *_, axes in self.labelled for v in axes if v is not None)
        self.axes = AxisTable(vectors, self._unit_of_label, self.unit_count)
        self._losing = {
            self.sweep.key(tensor, reader, index): self.axes.on(axes)
            for tensor, reader, index, axes in self.labelled
        }

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
        live = np.flatnonzero(free)
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
        places: dict[tuple[int, int], list[tuple[Tensor, Node, UnitAxis | None]]] = {}
        for tensor, reader, index, axes in self.labelled:
            if not isinstance(tensor, Constant):
                continue
            losing = self.losing(tensor, reader, index)
            if reader is None:
                places.update(((id(tensor), axis), [(tensor, None, each)]) for axis, each in losing)
                continue
            for axis in range(len(axes)):
                read = places.setdefault((id(tensor), axis), [])
                read.append((tensor, reader, dict(losing).get(axis)))
        found: list[Member] = []
        for (_, axis), read in places.items():
            together = all(each is read[0][2] for _, _, each in read)
            for tensor, reader, each in read[:1] if together else read:
                if each is not None:
                    name = tensor.name if together else f"{tensor.name}@{label(reader)}"
                    found.append(Member(name, tensor, axis, each.units))
        return found

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order of their first unit."""
        return self.axes.groups

    @property
    def group_of_unit(self) -> Vector:
        """The group of each unit."""
        return self.axes.group_of_unit

    @cached_property
    def sites(self) -> list[tuple[Site, UnitAxis | None]]:
        """Every parameter axis with a role; with None those that lose nothing."""
        return [(site, self.axes.of(site.labels)) for site in self.sweep.findings.sites]

    def losing(
        self, tensor: Tensor, reader: Node = None, index: int = 0
    ) -> Sequence[tuple[int, UnitAxis]]:
        """The axes of a tensor, as `reader` sees it in input `index`, that can lose elements."""
        return self._losing.get(self.sweep.key(tensor, reader, index), ())

    def losing_of(self, key: Hashable) -> Sequence[tuple[int, UnitAxis]]:
        """As `losing`, by what tells tensors apart (`Sweep.key`)."""
        return self._losing.get(key, ())

    def groups_on(self, units: Vector) -> list[int]:
        """The groups that units along an axis belong to, ascending."""
        return [int(g) for g in np.unique(self.group_of_unit[units[units != KEPT_UNIT]])]

    # --- telling --------------------------------------------------------------------------------

    def held(self) -> Iterator[Held]:
        """What layers have to keep, with the first reason for every channel."""
        reasons = [reason for _, reason in self.sweep.labels.frozen]
        first = self._first_reasons()
        for site, axis in self.sites:
            if site.role != "output" or (axis is not None and not axis.fixed):
                continue
            at = np.flatnonzero(self.units_of(site.labels) == KEPT_UNIT)
            whys = first[self.sweep.labels.find(site.labels[at])]
            for why in dict.fromkeys(whys[whys >= 0].tolist()):
                yield Held(label(site.node), at[whys == why], len(site.labels), reasons[why])

    def _first_reasons(self) -> Vector:
        """For each root, the number of what froze it first; -1 for those that are free."""
        labels = self.sweep.labels
        numbers: dict[Reason, int] = {}
        found = np.full(len(labels), -1, np.int64)
        if labels.frozen:
            roots = labels.find(np.concatenate([v for v, _ in labels.frozen]))
            # A reason that is given twice is one.
            own = [numbers.setdefault(r, i) for i, (_, r) in enumerate(labels.frozen)]
            which = np.repeat(own, [len(v) for v, _ in labels.frozen])
            found[roots[::-1]] = which[::-1]  # where several are written the last one stays
        return found

    def couplings(self) -> list[list[str]]:
        """For each group, the nodes through which its channels are coupled."""
        through: list[dict[str, None]] = [{} for _ in self.groups]
        for vector, where in self.sweep.labels.unions:
            units = self.units_of(vector)
            for group in np.unique(self.group_of_unit[units[units != KEPT_UNIT]]).tolist():
                through[group][where] = None
        return [list(t) for t in through]
