"""What a rule sees of one node: the labels on its inputs, and what it can say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphopt.channels.labels import KEPT, Labels, Reason, Vector
from graphopt.ir.graph import Constant, Node, Tensor, input_of, input_value, label, producer

Axis: TypeAlias = "Vector | None"  # None: nothing on this axis can be removed
Axes: TypeAlias = "list[Axis]"
# Before a node is seen an axis of a constant that only it reads may be a number, its size: such an
# axis takes over the labels it meets (`View.join`), and gets labels of its own where it meets none.
Inputs: TypeAlias = "list[Vector | int | None]"


class DenyError(Exception):
    """A rule cannot say what this node does with labels; the text is the reason."""


@dataclass(frozen=True)
class Contraction:
    """An input axis the node sums over: a removed label has to contribute zero there."""

    node: Node
    index: int
    axis: int
    labels: Vector


@dataclass(frozen=True)
class Site:
    """A parameter axis and what it is for.

    `role` is "output" or "input" (the two sides of a linear operator's weight), "bias", or one of
    a normalization's "scale", "shift", "mean", "variance".
    """

    node: Node
    role: str
    index: int
    axis: int
    labels: Vector


@dataclass
class Findings:
    """What a sweep collects besides the labels of tensors."""

    labels: Labels = field(default_factory=Labels)
    contractions: list[Contraction] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    # Choices rules made, by (node id, running number): the labels that depend on the choice and
    # how many ways there were.
    choices: dict[tuple[int, int], tuple[Vector, int]] = field(default_factory=dict)


class View:
    """One node under a rule. An input axis the rule does not `take` is frozen in the end."""

    def __init__(
        self,
        node: Node,
        inputs: list[Inputs | None],
        findings: Findings,
        chosen: Mapping[tuple[int, int], int],
        seen_outside: Callable[[Tensor], bool] = lambda _: False,
    ) -> None:
        self.node = node
        self._inputs = inputs
        self._findings = findings
        self._chosen = chosen
        self.seen_outside = seen_outside  # whether a subgraph or the model's user sees a tensor
        self._taken: set[tuple[int, int]] = set()
        self._made = 0
        self.outputs: dict[int, Axes] = {}

    # --- asking ---------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """How reports call the node."""
        return label(self.node)

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return input_of(self.node, index) is not None

    def dims(self, index: int) -> list[Any]:
        """The dimensions of input `index`; numbers where they are known."""
        dims = _dims(input_of(self.node, index))
        labelled = self._inputs[index] or [None] * len(dims)
        return [
            v.size if isinstance(v, np.ndarray) else d for d, v in zip(dims, labelled, strict=True)
        ]

    def rank(self, index: int) -> int:
        """How many axes input `index` has."""
        return len(self._inputs[index] or _dims(input_of(self.node, index)))

    def out_dims(self, index: int = 0) -> list[Any]:
        """The dimensions of output `index`."""
        return _dims(self.node.outputs[index])

    def value(self, index: int) -> np.ndarray[Any, Any] | None:
        """The array of constant input `index`, or None."""
        return input_value(self.node, index)

    def ints(self, index: int, what: str) -> list[int]:
        """The numbers of a constant integer input; denies when it is computed."""
        values = self.value(index)
        if values is None:
            raise DenyError(f"its {what} are computed at run time")
        return [int(v) for v in values.reshape(-1)]

    def attr(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        return self.node.attrs.get(name, default)

    def is_constant(self, index: int) -> bool:
        """Whether input `index` is a constant, or computed from constants only."""
        return _is_constant(input_of(self.node, index))

    # --- labels ---------------------------------------------------------------------------------

    def look(self, index: int, axis: int) -> Axis:
        """The labels of an input axis, without answering for them."""
        axes = self._inputs[index]
        if axes is None:
            return None
        found = axes[axis]
        if not isinstance(found, int):
            return found
        for k, size in enumerate(axes):
            if isinstance(size, int):
                axes[k] = self.fresh(size)
        return self.look(index, axis)

    def take(self, index: int, axis: int) -> Axis:
        """The labels of an input axis; the rule now answers for them."""
        axes = self._inputs[index]
        if axes is None:
            return None
        self._taken.add((index, axis % len(axes)))
        found = axes[axis]
        return self.look(index, axis) if isinstance(found, int) else found

    def take_all(self, index: int) -> Axes:
        """The labels of every axis of an input."""
        return [self.take(index, a) for a in range(self.rank(index))]

    def fresh(self, count: int) -> Vector:
        """Labels of channels that come into being here."""
        return self._findings.labels.fresh(count)

    def unite(self, *axes: Axis) -> Axis:
        """All the same from here on; when one cannot lose anything, none can."""
        if any(a is None for a in axes):
            for each in axes:
                self.freeze(each, "is combined with a tensor that keeps its size")
            return None
        first = axes[0]
        others = [each for each in axes[1:] if each is not None and each is not first]
        for each in others:
            if first is not None and each.shape != first.shape:
                raise DenyError(f"sizes {first.size} and {each.size} meet")
        if first is not None and len(others) == 1:
            self._findings.labels.unite(first, others[0], self.where)
        elif others:
            all_of_first = np.concatenate([first] * len(others))
            self._findings.labels.unite(all_of_first, np.concatenate(others), self.where)
        return first

    def join(self, vector: Axis, *places: tuple[int, int]) -> Axis:
        """As `unite`, of labels and the axes (input, axis) that meet them."""
        for index, axis in places:
            axes = self._inputs[index]
            size = None if axes is None else axes[axis]
            if axes is None or not isinstance(size, int):
                vector = self.unite(vector, self.take(index, axis))
                continue
            if vector is not None:
                if vector.size != size:
                    raise DenyError(f"sizes {vector.size} and {size} meet")
                self._findings.labels.coupled(vector, self.where)
            self._taken.add((index, axis % len(axes)))
            axes[axis] = vector
        return vector

    def meet(self, *places: tuple[int, int]) -> Axis:
        """All axes (input, axis) are the same from here on."""
        own = [p for p in places if self._is_open(*p)]
        others = [p for p in places if p not in own] or own[:1]
        together = self.unite(*(self.take(*p) for p in others))
        return self.join(together, *(p for p in own if p not in others))

    def _is_open(self, index: int, axis: int) -> bool:
        axes = self._inputs[index]
        return axes is not None and isinstance(axes[axis], int)

    def unite_rows(self, table: Vector) -> Vector:
        """Makes each row of a table of labels one; returns its first column."""
        first = table[:, 0].copy()
        rest = table[:, 1:]
        if rest.size:
            self._findings.labels.unite(
                np.repeat(first, rest.shape[1]), rest.reshape(-1), self.where
            )
        return first

    def roots(self, vector: Vector) -> Vector:
        """The representatives of labels as known so far."""
        return self._findings.labels.find(vector)

    def freeze(self, vector: Axis, what: str) -> None:
        """Nothing in `vector` may go, because this node `what`."""
        if vector is not None:
            self._findings.labels.freeze(vector, Reason(self.where, f"{self.node.op} {what}"))

    def give(self, axes: Sequence[Axis], output: int = 0) -> None:
        """The labels of an output."""
        self.outputs[output] = list(axes)

    # --- facts ----------------------------------------------------------------------------------

    def contract(self, index: int, axis: int, vector: Axis) -> None:
        """The node sums over this axis of input `index`."""
        if vector is not None:
            found = Contraction(self.node, index, axis % self.rank(index), vector)
            self._findings.contractions.append(found)

    def site(self, role: str, index: int, axis: int) -> None:
        """Input `index` carries a parameter of this role along `axis`."""
        axes = self._inputs[index] if index < len(self._inputs) else None
        if axes is not None and (vector := self.look(index, axis)) is not None:
            self._findings.sites.append(Site(self.node, role, index, axis % len(axes), vector))

    def choose(self, ways: int) -> tuple[int, Callable[[Vector], None]]:
        """One of several right ways; the sweep tries another when what depends on it is stuck.

        Returns:
            The way to take, and a function to be told the labels that depend on it.
        """
        key = (id(self.node), self._made)
        self._made += 1

        def depends(vector: Vector) -> None:
            self._findings.choices[key] = (vector, ways)

        return self._chosen.get(key, 0) % ways, depends

    def close(self) -> None:
        """Freezes what the rule did not answer for; denies where it forgot an output."""
        outputs, taken = self.node.outputs, self._taken
        for k in range(len(outputs)):
            missing = k not in self.outputs and not outputs[k].is_empty()
            if missing and any(self.look(*place) is not None for place in taken):
                raise DenyError(f"has an output that cannot be followed (number {k})")
        for index, axes in enumerate(self._inputs):
            for axis, vector in enumerate(axes or ()):
                if vector is not None and (index, axis) not in taken:
                    self._hold(axes, axis, f"mixes axis {axis} of its input {index}")

    def deny(self, reason: str) -> None:
        """Freezes everything the node reads."""
        self.outputs.clear()
        for axes in self._inputs:
            for axis in range(len(axes or [])):
                self._hold(axes, axis, reason)

    def _hold(self, axes: Any, axis: int, reason: str) -> None:
        if isinstance(axes[axis], int):
            axes[axis] = None  # nobody else reads it
        else:
            self.freeze(axes[axis], reason)


def _is_constant(tensor: Tensor | None, depth: int = 8) -> bool:
    if tensor is None or isinstance(tensor, Constant):
        return tensor is not None
    maker = producer(tensor)
    return (
        depth > 0
        and maker is not None
        and bool(maker.inputs)
        and all(t.is_empty() or _is_constant(t, depth - 1) for t in maker.inputs)
    )


def _dims(tensor: Tensor | None) -> list[Any]:
    if tensor is None or tensor.shape is None:
        raise DenyError("has a tensor of unknown rank")
    return list(tensor.shape)


def holes(size: int) -> Vector:
    """Labels of an axis that keeps its size."""
    return np.full(size, KEPT, np.int64)
