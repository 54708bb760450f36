"""The network as it is with channels zeroed: what a pruned network has to be equal to.

Where an operator sums over an axis (a convolution over its input channels, a matrix product), the
removed elements are multiplied by zero before it. Nothing else is changed, so this shares no code
with the removal it checks.
"""

from __future__ import annotations

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.ir.graph import Graph, add_constant, add_node, set_input, sweep


def masked(channels: Channels, removed: Vector) -> Graph:
    """A copy of the analyzed graph in which `removed` units contribute nothing."""
    graph = channels.graph.copy()
    twin = dict(zip((id(n) for n in channels.graph.nodes), graph.nodes, strict=True))
    gone = channels.gone(removed)
    for found in channels.sweep.findings.contractions:
        zeroed = gone[channels.units_of(found.labels)]
        if not zeroed.any():
            continue
        node = twin[id(found.node)]
        source = node.inputs[found.index]
        shape = [1] * len(source.shape)
        shape[found.axis] = len(zeroed)
        mask = (~zeroed).astype(source.dtype).reshape(shape)
        factor = add_constant(graph, f"{source.name}_mask", mask)
        # A zero times infinity would be NaN, but what overflows does so in both networks.
        set_input(node, found.index, add_node(graph, "Mul", [source, factor], like=source))
    sweep(graph)
    return graph
