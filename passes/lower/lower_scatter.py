"""Writes scattering to places that are known as gathering from both tensors.

    scatter(x, i, u) == reshape(gather(concat(flat(x), flat(u)), p), shape of x)

p says for every element of the result where it comes from: from x, or from the last update of its place.
In-place assignments to slices are exported so (`y[..., :2] = ...`). Not handled: indices computed at run
time, and updates that are added or multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_value,
    nodes_of,
    replace_uses,
    static_shape,
)
from graphopt.pass_base import Context, Exact, Pass

Indices = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LowerScatter(Pass):
    """ScatterND and ScatterElements with constant indices become a Gather from the data and the updates."""

    name: ClassVar[str] = "lower-scatter"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "ScatterND", "ScatterElements"):
            reason = _why_not(node)
            if reason:
                context.refused(node, reason)
                continue
            data, out = node.inputs[0], node.outputs[0]
            places = _places(node)
            flat = [_reshaped(graph, t, (_size(t),)) for t in (data, node.inputs[2])]
            length, first = sum(_size(t) for t in flat), {"axis": 0}
            whole = add_node(graph, "Concat", flat, like=out, attrs=first, shape=[length])
            index = add_constant(graph, f"{out.name}_places", places)
            taken = add_node(
                graph, "Gather", [whole, index], like=out, attrs=first, shape=[places.size]
            )
            replace_uses(graph, out, _reshaped(graph, taken, static_shape(data) or ()))
            context.rewrote(node, f"a Gather of {places.size} elements")


def _why_not(node: Node) -> str | None:
    if node.attrs.get("reduction", "none") != "none":
        return f"its updates are combined with what is there ({node.attrs['reduction']})"
    if input_value(node, 1) is None:
        return "where it writes is computed at run time"
    if any(static_shape(t) is None for t in (node.inputs[0], node.inputs[2])):
        return "a size is not known"
    return None


def _places(node: Node) -> Indices:
    """Where in (data, updates) every element of the result is."""
    shape, updates = static_shape(node.inputs[0]) or (), static_shape(node.inputs[2]) or ()
    indices = input_value(node, 1)
    assert indices is not None
    places = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    sources = places.size + np.arange(math.prod(updates), dtype=np.int32)
    if node.op == "ScatterND":
        depth = indices.shape[-1]
        rows = tuple(indices.reshape(-1, depth).T)
        places[rows] = sources.reshape(-1, *shape[depth:])
    else:
        axis = int(node.attrs.get("axis", 0)) % len(shape)
        at = list(np.indices(indices.shape))
        at[axis] = indices % shape[axis]
        places[tuple(at)] = sources.reshape(updates)
    return places.reshape(-1)


def _size(tensor: Tensor) -> int:
    return math.prod(static_shape(tensor) or ())


def _reshaped(graph: Graph, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    target = add_constant(graph, f"{tensor.name}_shape", np.array(shape, np.int64))
    return add_node(graph, "Reshape", [tensor, target], like=tensor, shape=list(shape))
