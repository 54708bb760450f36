"""Raising a graph's opset where nothing but the types that operators take has changed.

Graphs in normal form are of opset 20 or later. Up to 23 the standard gave operators new types (4 bits
from 21 on, bfloat16 convolutions from 22 on) and changed the meaning of one: GroupNormalization, in 21.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, inner_nodes, is_op, subgraphs

_CHANGED_MEANING = 21
_IR_VERSION = 10  # the oldest that knows opset 21


def in_the_way(graph: Graph, opset: int) -> Node:
    """A node that means something else in `opset` than in the graph's own, or None."""
    if not graph.opset < _CHANGED_MEANING <= opset:
        return None
    nodes = (*graph.nodes, *inner_nodes(graph))
    return next((n for n in nodes if is_op(n, "GroupNormalization")), None)


def set_opset(graph: Graph, opset: int) -> None:
    """Gives the graph and its subgraphs another opset; see `in_the_way`."""
    graph.opset = opset
    if opset >= _CHANGED_MEANING:
        graph.ir_version = max(graph.ir_version or 0, _IR_VERSION)
    for node in (*graph.nodes, *inner_nodes(graph)):
        for inner in subgraphs(node):
            inner.opset = opset
