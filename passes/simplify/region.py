"""Whether a group of nodes can be replaced by something that has only their last result."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.graph import Graph, Node, Tensor, is_output


def why_not_closed(graph: Graph, nodes: Iterable[Node], root: Tensor) -> str | None:
    """The reason somebody besides `nodes` needs a result of theirs other than `root`, or None."""
    members = list(nodes)
    if any(graph.is_inner(n) for n in members):
        return "a part of it stands in a subgraph"
    inside = {id(n) for n in members}
    for tensor in (t for n in members for t in n.outputs if t is not root):
        if is_output(graph, tensor):
            return f"the intermediate result {tensor.name!r} is an output of the model"
        if any(id(reader) not in inside for reader in tensor.outputs):
            return f"the intermediate result {tensor.name!r} is read elsewhere too"
    return None
