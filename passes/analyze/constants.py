"""The values of parameters: constants, and what a graph computes from constants alone.

A weight may stand in a graph as Transpose(constant), or as DequantizeLinear of an 8-bit one. Such a
parameter is computed with ONNX Runtime. Where nothing but movement lies between, gradients of the
constant are carried along the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.graph import Constant, Graph, Node, Tensor, Variable, label
from graphopt.runtime.run import open_graph

Array = np.ndarray[Any, Any]

_MOVEMENT = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten")


def parameter_value(graph: Graph, tensor: Tensor) -> Array | None:
    """The array of a parameter; None when it depends on the model's inputs."""
    if isinstance(tensor, Constant):
        values: Array = tensor.values
        return values
    nodes = _expression(tensor)
    return None if nodes is None else _compute(graph, nodes, tensor, lambda c: c.values)


def is_known(tensor: Tensor) -> bool:
    """Whether a parameter's values follow from the graph's constants alone."""
    return isinstance(tensor, Constant) or _expression(tensor) is not None


def source_constant(tensor: Tensor) -> Tensor | None:
    """The constant a parameter is, or is moved from; None when it is computed in another way."""
    while not isinstance(tensor, Constant):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op not in _MOVEMENT:
            return None
        tensor = node.inputs[0]
    return tensor


def moved_gradient(graph: Graph, tensor: Tensor, gradient: Array) -> Array:
    """The gradient of a parameter from that of its `source_constant`."""
    source = source_constant(tensor)
    nodes = _expression(tensor)
    if tensor is source or not nodes:
        return gradient
    return _compute(graph, nodes, tensor, lambda c: gradient if c is source else c.values)


def _expression(tensor: Tensor) -> list[Node] | None:
    """The nodes that compute `tensor`, first to last; None when one of them reads an input."""
    order: dict[int, Node] = {}
    stack = [tensor]
    while stack:
        each = stack.pop()
        if isinstance(each, Constant) or each.is_empty():
            continue
        if not each.inputs or any(True for _ in each.inputs[0].subgraphs()):
            return None
        node = each.inputs[0]
        order.pop(id(node), None)  # a later visit has to come out earlier
        order[id(node)] = node
        stack += node.inputs
    return list(order.values())[::-1]


def _compute(
    graph: Graph, nodes: list[Node], result: Tensor, value: Callable[[Tensor], Array]
) -> Array:
    import onnx_graphsurgeon as gs

    twins: dict[int, Tensor] = {}

    def twin(tensor: Tensor) -> Tensor:
        if tensor.is_empty():
            return Variable.empty()
        if id(tensor) not in twins:
            is_constant = isinstance(tensor, Constant)
            made = Constant(tensor.name, value(tensor)) if is_constant else _variable(tensor)
            twins[id(tensor)] = made
        return twins[id(tensor)]

    copies = [
        gs.Node(n.op, label(n), dict(n.attrs), [twin(t) for t in n.inputs], [*map(twin, n.outputs)])
        for n in nodes
    ]
    small = Graph(
        nodes=copies, inputs=[], outputs=[twin(result)], opset=graph.opset, name="parameter"
    )
    small.import_domains = graph.import_domains
    small.ir_version = graph.ir_version
    computed: Array = open_graph(small).run({})[result.name]
    return computed


def _variable(tensor: Tensor) -> Tensor:
    return Variable(tensor.name, tensor.dtype, tensor.shape)
