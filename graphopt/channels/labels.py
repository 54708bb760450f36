"""Labels of channels, and which of them have to live or die together.

A label is a positive integer that stands for one slice of one axis. `unite` makes two vectors of
labels equal element by element (union-find over whole numpy vectors), `freeze` forbids removal and
remembers why. The label 0 stands for something that can never be removed: what is united with it
is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Vector: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

KEPT = 0  # the label of what can never be removed


@dataclass(frozen=True)
class Reason:
    """Why labels are frozen: the node (or tensor) it happens at, and one sentence."""

    where: str
    what: str


class Labels:
    """A growing set of labels with their unions and what is frozen."""

    def __init__(self) -> None:
        self._parent: Vector = np.zeros(1024, np.int64)
        self._count = 1  # label 0 is KEPT
        self._united = 0  # no label above this one was ever united
        self.frozen: list[tuple[Vector, Reason]] = []
        self.unions: list[tuple[Vector, str]] = []

    def fresh(self, count: int) -> Vector:
        """New labels, each on its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            grown = np.zeros(max(self._count, 2 * len(self._parent)), np.int64)
            grown[:first] = self._parent[:first]
            self._parent = grown
        labels = np.arange(first, self._count, dtype=np.int64)
        self._parent[first : self._count] = labels
        return labels

    def __len__(self) -> int:
        return self._count

    def find(self, vector: Vector) -> Vector:
        """The representative of each label's union (0 stays 0)."""
        roots = self._parent[vector]
        above = self._parent[roots]
        if not np.count_nonzero(above != roots):
            return roots
        while np.count_nonzero(above != roots):
            roots, above = above, self._parent[above]
        self._parent[vector] = roots
        return roots

    def unite(self, a: Vector, b: Vector, where: str) -> None:
        """Makes a[i] and b[i] one for every i; what meets KEPT is frozen."""
        if self._adopt(a, b):
            self.unions.append((a, where))
            return
        both = np.concatenate([a, b])
        if np.count_nonzero(both) < len(both):
            a, b = self._without_kept(a, b, where)
            both = np.concatenate([a, b])
        self._united = max(self._united, int(both.max(initial=0)))
        merged = False
        while True:
            roots = self.find(both)
            ra, rb = roots[: len(a)], roots[len(a) :]
            apart = np.flatnonzero(ra != rb)
            if not len(apart):
                break
            merged = True
            high, low = np.maximum(ra, rb)[apart], np.minimum(ra, rb)[apart]
            np.minimum.at(self._parent, high, low)
            if not np.count_nonzero(self._parent[high] != low):
                break  # none of the higher ones met two others
        if merged:
            self.unions.append((a, where))

    def coupled(self, vector: Vector, where: str) -> None:
        """What carries these very labels is coupled there, with no union needed."""
        if not self.unions or self.unions[-1][0] is not vector or self.unions[-1][1] != where:
            self.unions.append((vector, where))

    def _adopt(self, a: Vector, b: Vector) -> bool:
        """Puts the labels of a weight that is met for the first time under those it meets.

        That is nearly every union. False when `b` is anything else: then nothing is done.
        """
        if not len(b) or b[0] <= self._united or np.count_nonzero(b[1:] <= b[:-1]):
            return False
        roots = self.find(a)
        if np.count_nonzero(roots) < len(roots) or np.count_nonzero(roots >= b):
            return False
        self._parent[b] = roots
        self._united = int(b[-1])
        return True

    def _without_kept(self, a: Vector, b: Vector, where: str) -> tuple[Vector, Vector]:
        """The pairs of two labels that can go; what meets KEPT is frozen."""
        held = (a == KEPT) != (b == KEPT)
        freeze = np.where(a == KEPT, b, a)[held]
        self.freeze(freeze, Reason(where, "is combined with a tensor that keeps its size"))
        both = (a != KEPT) & (b != KEPT)
        return a[both], b[both]

    def freeze(self, vector: Vector, reason: Reason) -> None:
        """Nothing in `vector` may be removed."""
        labels = vector[vector != KEPT]
        if labels.size:
            self.frozen.append((labels, reason))

    def frozen_roots(self) -> Vector:
        """The representatives of all frozen unions, ascending."""
        is_root = np.zeros(len(self), bool)
        if self.frozen:
            is_root[self.find(np.concatenate([v for v, _ in self.frozen]))] = True
        return np.flatnonzero(is_root)
