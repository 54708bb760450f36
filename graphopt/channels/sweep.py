"""One sweep over a graph labels every channel of every tensor and unites what belongs together.

Every constant starts with a fresh label on each of its axes; every node's rule carries the labels
of its inputs to its outputs the way the operator moves or combines data, and unites labels where
the operator needs equal sizes. Because a constant's labels are its own, a weight that is read twice
couples its two places by itself; one that is read once takes over the labels it meets, which is the
same with fewer labels. Unknown operators, graph inputs and outputs and subgraphs freeze what they
touch.

An axis of size 1 carries no labels, nor do the axes of graph inputs. Reshapes that split an axis
and grouped convolutions leave a choice of what stays together (which of the new axes loses
elements; whole groups or a part of each). When everything that depends on a choice ends up frozen
or as one piece, the sweep is repeated with the next way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from graphopt.channels.labels import Reason
from graphopt.channels.rules import rule_for
from graphopt.channels.settle import settle_sizes
from graphopt.channels.view import Axes, DenyError, Findings, View
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    inner_nodes,
    label,
    outer_inputs,
    subgraphs,
)

_ROUNDS = 4
# Torch modules keep the sizes of these beside their parameters, where they can be corrected.
_SIZED_BY_PARAMETERS = ("Conv", "ConvTranspose", "GroupNormalization")
# A constant read in several places gets labels of its own in each when it is no larger than this:
# simplifiers merge equal biases, and a copy costs nothing.
_OWN_COPY = 8192


class Sweep:
    """The labels of all tensors of a graph."""

    def __init__(self, graph: Graph, *, share: bool = True) -> None:
        """Sweeps until no choice improves; with `share` off, weights read twice get copies."""
        self.graph = graph
        settle_sizes(graph)
        self._copied = _copied(graph, share=share)
        self._main = {id(n) for n in graph.nodes}
        self._given_out = {id(t) for t in graph.outputs}
        self._ways: dict[tuple[int, int], int] = {}
        self._once()
        for _ in range(_ROUNDS - 1):
            if not self._next_ways():
                break
            self._once()

    def axes(self, tensor: Tensor, reader: Node = None, index: int = 0) -> Axes | None:
        """The labels on the axes of a tensor as `reader` sees it in input `index`."""
        return self._axes.get(self.key(tensor, reader, index))

    def key(self, tensor: Tensor, reader: Node, index: int) -> Hashable:
        """What tells tensors apart: a constant with copies is another one in every place."""
        if reader is not None and id(tensor) in self._copied:
            return id(tensor), id(reader), index
        return id(tensor)

    def is_copied(self, tensor: Tensor) -> bool:
        """Whether every reader of a constant may get a copy of its own."""
        return id(tensor) in self._copied

    # --- one round ------------------------------------------------------------------------------

    def _once(self) -> None:
        self.findings = Findings()
        self.labels = self.findings.labels
        self._axes: dict[Hashable, Any] = {}
        for node in self.graph.nodes:
            self._visit(node)
        for tensor in self.graph.outputs:
            reason = Reason(tensor.name, f"{tensor.name!r} is an output of the model")
            self._freeze(self._labels_of(tensor, None, 0), reason)

    def _visit(self, node: Node) -> None:
        inputs = [
            None if t.is_empty() else self._labels_of(t, node, i) for i, t in enumerate(node.inputs)
        ]
        view = View(node, inputs, self.findings, self._ways, self._seen_outside)
        rule = rule_for(node)  # none of an operator with a subgraph
        if rule is not None:
            try:
                rule.label(view)
                view.close()
            except DenyError as denied:
                view.deny(str(denied))
        elif subgraphs(node):
            self._freeze_inside(node)
            view.deny("runs a subgraph, in which nothing is removed")
        else:
            domain = f"{node.domain}::" if node.domain else ""
            view.deny(f"is an operator without a rule ({domain}{node.op})")
        for k, tensor in enumerate(node.outputs):
            self._axes[id(tensor)] = view.outputs.get(k)

    def _seen_outside(self, tensor: Tensor) -> bool:
        return id(tensor) in self._given_out or any(id(r) not in self._main for r in tensor.outputs)

    def _labels_of(self, tensor: Tensor, reader: Node, index: int) -> Any:
        """Its axes; sizes instead of labels where `reader` alone meets a constant first (`View`)."""
        key = self.key(tensor, reader, index)
        if key not in self._axes:
            alone = reader is not None and self._reads_alone(tensor)
            self._axes[key] = self._first_labels(tensor, alone=alone)
        return self._axes[key]

    def _reads_alone(self, tensor: Tensor) -> bool:
        if id(tensor) in self._copied:
            return True
        return len(tensor.outputs) == 1 and id(tensor) not in self._given_out

    def _first_labels(self, tensor: Tensor, *, alone: bool) -> list[Any] | None:
        if not isinstance(tensor, Constant):
            return None
        shape, dtype = tensor.shape, tensor.dtype
        if len(shape) < 2 and dtype.kind == "i" and dtype.itemsize in (4, 8):
            return None  # shapes, bounds and indices: the rules rewrite them
        if alone:
            return [d if d > 1 else None for d in shape]
        return [self.labels.fresh(d) if d > 1 else None for d in shape]

    def _freeze_inside(self, node: Node) -> None:
        reason = Reason(node.name or node.op, "is read inside a subgraph")
        for tensor in outer_inputs(node):
            self._freeze(self._labels_of(tensor, None, 0), reason)

    def _freeze(self, axes: Axes | None, reason: Reason) -> None:
        for vector in axes or []:
            if vector is not None:
                self.labels.freeze(vector, reason)

    # --- choices --------------------------------------------------------------------------------

    def _next_ways(self) -> bool:
        """Moves every stuck choice on to its next way; False when none can be moved."""
        frozen = self.labels.frozen_roots()
        moved = False
        for key, (vector, ways) in self.findings.choices.items():
            roots = np.unique(self.labels.find(vector))
            free = np.setdiff1d(roots, frozen, assume_unique=True)
            stuck = len(free) < min(2, len(vector))
            way = self._ways.get(key, 0)
            if stuck and way + 1 < ways:
                self._ways[key] = way + 1
                moved = True
        return moved

    def hold_written_sizes(self) -> None:
        """Freezes what needs a size or a position outside of parameters to be rewritten."""
        for node in self.graph.nodes:
            rule = rule_for(node)
            if rule is None or rule.shrink is None or node.op in _SIZED_BY_PARAMETERS:
                continue
            reason = Reason(label(node), f"{node.op} has a size written in the code it stands for")
            for tensor in node.outputs:
                self._freeze(self._labels_of(tensor, None, 0), reason)

    # --- all of it ------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[Tensor, Node, int, Axes]]:
        """Every labelled tensor once: (tensor, reader, input index, axes).

        `reader` is None except for constants of which every reader has a copy.
        """
        seen: set[Hashable] = set()
        for node in self.graph.nodes:
            for i, tensor in enumerate(node.inputs):
                if not isinstance(tensor, Constant):
                    continue
                key = self.key(tensor, node, i)
                axes = self._axes.get(key)
                if axes is not None and key not in seen:
                    seen.add(key)
                    yield tensor, node if self.is_copied(tensor) else None, i, axes
            for tensor in node.outputs:
                axes = self._axes.get(id(tensor))
                if axes is not None:
                    yield tensor, None, 0, axes


def _copied(graph: Graph, *, share: bool) -> set[int]:
    """The constants with labels of their own in every place they are read in."""
    found: set[int] = set()
    for tensor in {id(t): t for n in graph.nodes for t in n.inputs}.values():
        if isinstance(tensor, Constant) and len(tensor.outputs) > 1:
            size = max(tensor.shape, default=1)
            is_vector = int(np.prod(tensor.shape)) == size
            if not share or (is_vector and size <= _OWN_COPY):
                found.add(id(tensor))
    return found


def read_inside(graph: Graph) -> set[int]:
    """The ids of tensors that subgraphs read or the model gives out."""
    inner = {id(t) for n in inner_nodes(graph) for t in outer_inputs(n)}
    return inner | {id(t) for t in graph.outputs}
