"""Replaces shape arithmetic by the numbers it comes to.

    shape(x)[1] / 3 == 85     where x is float[batch,255,8,8], whatever the batch

Every integer tensor whose elements follow from known dimensions becomes a constant, and what hung on
it gets its shape inferred again. Not handled: tensors with one element that only run time knows (see
merge-reshapes for those that are the target of a Reshape), and arithmetic on floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import Elements, Values
from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    is_output,
    label,
    replace_uses,
    sweep,
)
from graphopt.ir.shapes import infer_shapes
from graphopt.pass_base import Context, Exact, Pass

_ROUNDS = 8  # each needs a shape that the one before made known: depth of the model's heads


@dataclass(frozen=True)
class FoldShapes(Pass):
    """shape(x)[1] / 3 == 85 where x is float[batch,255,8,8]: known shape arithmetic is constant."""

    name: ClassVar[str] = "fold-shapes"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for _ in range(_ROUNDS):
            values = Values(graph)
            found = [(n, values.of(n.outputs[0])) for n in graph.nodes if is_foldable(graph, n)]
            known = [(n, e) for n, e in found if e is not None and is_known(e)]
            if not known:
                return
            # The last first: what only served it is dropped and needs no constant of its own.
            for node, elements in reversed(known):
                if node.outputs:
                    fold(graph, node, elements, context)
            sweep(graph)  # inference gives up on a graph with disconnected nodes
            infer_shapes(graph)


def is_foldable(graph: Graph, node: Node) -> bool:
    """Whether the node's result may become a constant (an output of the model stays computed)."""
    return len(node.outputs) == 1 and not is_output(graph, node.outputs[0])


def is_known(elements: Elements) -> bool:
    """Whether every element is a number."""
    return all(isinstance(e, int | np.integer) for e in elements.reshape(-1))


def fold(graph: Graph, node: Node, elements: Elements, context: Context) -> None:
    """Puts a constant in the place of the node's result."""
    out, where = node.outputs[0], label(node)
    values = np.asarray(elements.astype(np.dtype(out.dtype)))
    replace_uses(graph, out, add_constant(graph, out.name, values))
    context.rewrote(where, f"is the constant {values.tolist()}")
