"""What a spelling of an activation is: the nodes that compute it, and the operator it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, add_constant, add_node
from graphopt.passes.simplify.polynomial import (
    Polynomial,
    near,
    read_polynomial,
    readers_above,
    same,
)
from graphopt.passes.simplify.region import why_not_closed


@dataclass(frozen=True)
class Found:
    """`root`, computed by `nodes`, is `op` of `inputs`; `flaw` says why it is only nearly that."""

    root: Tensor
    nodes: list[Node]
    op: str
    inputs: list[Tensor]  # or arrays, for new constants
    attrs: dict[str, Any] = field(default_factory=dict)
    times: Tensor | None = None
    flaw: str | None = None

    def write(self, graph: Graph) -> Tensor:
        """Adds the activation (times another tensor, for x * sigmoid(x)) and returns its result."""
        inputs = [
            add_constant(graph, f"{self.root.name}_slope", t) if isinstance(t, np.ndarray) else t
            for t in self.inputs
        ]
        like = self.root
        if self.times is None:
            return add_node(graph, self.op, inputs, like=like, attrs=self.attrs)
        shape = self.inputs[0].shape  # not that of the product, which may be larger
        made = add_node(graph, self.op, inputs, like=like, attrs=self.attrs, shape=shape)
        return add_node(graph, "Mul", [self.times, made], like=like)

    def why_not(self, graph: Graph) -> str | None:
        """The reason the nodes have to stay, or None."""
        if self.flaw:
            return self.flaw
        if str(self.root.dtype) != "float32":
            return (
                f"only in float32 is it sure to run and to round alike; this is {self.root.dtype}"
            )
        return why_not_closed(graph, self.nodes, self.root)


# Yields what a node of a given operator may be the heart of.
Spelling: TypeAlias = "Callable[[Node], Iterator[Found]]"


def goals(
    x: Tensor,
    e: Tensor,
    nodes: list[Node],
    goal: Polynomial,
    op: str,
    attrs: dict[str, Any],
    *,
    exact: bool = True,
) -> Iterator[Found]:
    """Every result above `e` that reads as the polynomial `goal` in x and e."""
    for root in readers_above(e):
        reading = read_polynomial(root, (x, e))
        if reading is None or not near(reading.terms, goal):
            continue
        flaw = None
        if not (exact and same(reading.terms, goal)):
            flaw = f"it looks like {op}, but a constant is off by more than one part in a million"
        yield Found(root, [*nodes, *reading.nodes], op, [x], attrs, flaw=flaw)
