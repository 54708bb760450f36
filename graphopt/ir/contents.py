"""A graph that becomes another one, for passes that make a new graph instead of editing the old."""

from __future__ import annotations

from graphopt.ir.graph import Graph


def replace_contents(graph: Graph, new: Graph) -> None:
    """Makes `graph` what `new` is; metadata, which passes do not change, stays."""
    graph.nodes, graph.inputs, graph.outputs = new.nodes, new.inputs, new.outputs
    graph.import_domains = new.import_domains
    graph.forget_names()
