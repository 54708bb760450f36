"""The network as it is with channels zeroed: what a pruned network has to be equal to.

Where an operator sums over an axis (a convolution over its input channels, a matrix product), the
removed elements are replaced by zero before it. Nothing else is changed, so this shares no code
with the removal it checks.
"""

from __future__ import annotations

import numpy as np

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
        kept = add_constant(graph, f"{source.name}_mask", ~zeroed.reshape(shape))
        zero = add_constant(graph, f"{source.name}_zero", np.zeros((), source.dtype))
        # Not a product with zero: a channel that is infinite or NaN has to go without a trace.
        inputs = [kept, source, zero]
        set_input(node, found.index, add_node(graph, "Where", inputs, like=source))
    sweep(graph)
    return graph
