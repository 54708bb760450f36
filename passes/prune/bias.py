"""Adding to what a linear operator gives out, wherever that can be stored.

A bias of its own, the mean that a BatchNormalization behind it subtracts, the constant of an Add behind
a matrix product: whatever is there, so that no parameter is added where one can take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.channels.labels import Floats
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    Variable,
    add_constant,
    input_of,
    is_op,
    set_input,
    sole_reader,
)

_Slot = tuple[Any, int, float]  # node, input, factor


def add_bias(graph: Graph, nodes: Sequence[Node], values: Floats) -> None:
    """Adds `values`, one per output channel, to what every one of these linear operators gives out.

    Operators that share a constant for it are meant to be given together.
    """
    _shift([_slot(graph, node) for node in nodes], values, graph)


def _slot(graph: Graph, node: Node) -> _Slot:
    """The constant input that what is added to the node's result goes into, made where missing."""
    reader = sole_reader(graph, node.outputs[0])
    if node.op == "MatMul":
        return _after_product(graph, node, reader)
    if input_of(node, 2) is not None:
        return node, 2, 1.0 / float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    if is_op(reader, "BatchNormalization"):
        return reader, 3, -1.0  # what the BatchNormalization subtracts
    set_input(node, 2, _zeros(graph, node))
    return node, 2, 1.0


def _after_product(graph: Graph, node: Node, reader: Node) -> _Slot:
    """A matrix product has no bias of its own; the addition behind it has, or one is added."""
    out = node.outputs[0]
    if is_op(reader, "Add"):
        at = 1 if reader.inputs[0] is out else 0
        other = reader.inputs[at]
        if isinstance(other, Constant) and other.shape and other.shape[-1] == out.shape[-1]:
            return reader, at, 1.0
    product = Variable(graph.fresh_name(f"{out.name}_unbiased"), out.dtype, out.shape)
    node.outputs = [product]
    name = graph.fresh_name(f"{out.name}_add")
    added = gs.Node("Add", name, {}, [product, _zeros(graph, node)], [out])
    graph.nodes.append(added)
    return added, 1, 1.0


def _zeros(graph: Graph, node: Node) -> Tensor:
    weight = node.inputs[1]
    out_axis = {"ConvTranspose": 1, "MatMul": 1}.get(node.op, 0)
    if node.op == "Gemm" and not node.attrs.get("transB", 0):
        out_axis = 1
    zeros = np.zeros(weight.values.shape[out_axis], weight.dtype)
    return add_constant(graph, f"{weight.name}_bias", zeros)


def _shift(slots: Sequence[_Slot], by: Floats, graph: Graph) -> None:
    """Adds to constant inputs; others who read the same constant keep the old values."""
    for tensor in {id(n.inputs[i]): n.inputs[i] for n, i, _ in slots}.values():
        places = [(n, i, f) for n, i, f in slots if n.inputs[i] is tensor]
        values = (tensor.values + by * places[0][2]).astype(tensor.values.dtype)
        if len(tensor.outputs) == len(places):
            tensor.values = values
            continue
        own = add_constant(graph, tensor.name, values)
        for node, index, _ in places:
            set_input(node, index, own)
