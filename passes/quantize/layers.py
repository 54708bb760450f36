"""The products of a rounded network, beside what they were in the float network.

A repair compares a product's result with what the float network has at the same place. Products keep
their names when a network is rounded; the names of tensors that are outputs of the model change.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    bypass,
    is_op,
    nodes_of,
    outer_inputs,
    rank_of,
    sole_reader,
    sweep,
)
from graphopt.pass_base import Context
from graphopt.passes.quantize.observe.curves import gated_by
from graphopt.passes.quantize.pairs import Pair, pairs, rounded_input
from graphopt.passes.quantize.placement import PRODUCTS

_ACTIVATIONS = (
    *("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh"),
    *("Gelu", "Elu", "Swish"),
)
FLOAT = "float-network"  # what repairs call it among the facts


@dataclass(frozen=True)
class Layer:
    """A product with a constant weight.

    Attributes:
        node: in the rounded graph.
        twin: in the float graph.
        rounding: the pair that rounds its weight, if it is rounded.
    """

    node: Node
    twin: Node
    rounding: Pair | None

    @property
    def source(self) -> Tensor:
        """What it multiplies by the weight."""
        return self.node.inputs[0]

    @property
    def output(self) -> Tensor:
        """Its result."""
        return self.node.outputs[0]

    @property
    def channel_axis(self) -> int:
        """The axis of the result's channels."""
        return 1 if self.node.op in ("Conv", "ConvTranspose") else (rank_of(self.output) or 2) - 1


def float_network(graph: Graph, context: Context) -> Graph:
    """The network that was rounded.

    The first repair takes the pairs out of the graph, which is exact: nothing else was changed when
    they were put in. It keeps the result for those that follow, which find changed weights. (The
    teacher of the context may be an older one, of other widths or ranges: from before `prune` or
    `absorb-bias`.)
    """
    known = context.known.get(FLOAT)
    if isinstance(known, Graph):
        return known
    twin = graph.copy()
    for pair in list(pairs(twin)):
        if pair.dequantize.outputs:
            bypass(twin, pair.dequantize)
            if pair.quantize.outputs:
                bypass(twin, pair.quantize)
    sweep(twin)
    context.facts[FLOAT] = twin
    return twin


def layers(graph: Graph, reference: Graph) -> list[Layer]:
    """The products with constant weights, rounded or not, in order."""
    twins = {n.name: n for n in reference.nodes}
    found = []
    for node in nodes_of(graph, *PRODUCTS):
        twin = twins.get(node.name)
        if twin is not None and isinstance(twin.inputs[1], Constant):
            found.append(Layer(node, twin, rounded_input(node, 1)))
    return found


def behind_roundings(graph: Graph) -> set[str]:
    """The names of the nodes that something rounded leads to."""
    found: set[str] = set()
    for node in graph.nodes:
        makers = [p for t in outer_inputs(node) for p in t.inputs]
        if any(m.op == "DequantizeLinear" or m.name in found for m in makers):
            found.add(node.name)
    return found


def activation_behind(graph: Graph, tensor: Tensor) -> Tensor | None:
    """What an activation makes of a tensor, where everybody sees it through that one, else None."""
    gate = gated_by(graph, tensor)
    if gate is not None:
        result: Tensor = gate[1].outputs[0]
        return result
    reader = sole_reader(graph, tensor)
    return reader.outputs[0] if is_op(reader, *_ACTIVATIONS) else None
