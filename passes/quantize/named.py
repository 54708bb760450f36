"""Nodes as users name them: by name, by operator, by what they make, or by a glob of these."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node, label
from graphopt.named import is_named, unknown


def named_nodes(graph: Graph, patterns: Iterable[str]) -> list[Node]:
    """The nodes of a graph that any of the patterns names.

    Raises:
        UsageError: a pattern that matches nothing, with near misses.
    """
    found: dict[int, Node] = {}
    for pattern in patterns:
        nodes = [n for n in graph.nodes if _matches(n, pattern)]
        if not nodes:
            names = {label(n) for n in graph.nodes} | {n.op for n in graph.nodes}
            raise UsageError(unknown("node or operator", pattern, sorted(names)))
        found.update((id(n), n) for n in nodes)
    return list(found.values())


def _matches(node: Node, pattern: str) -> bool:
    names = (node.name, node.op, *(t.name for t in node.outputs))
    return any(is_named(n, pattern) for n in names if n)
