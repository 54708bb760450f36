"""Lets an activation run behind the MaxPool that reads it, where rounding follows the pool.

    max(a(x)) == a(max(x))      for every a that never falls

ONNX Runtime moves a QuantizeLinear that stands behind a MaxPool in front of it. Behind an integer
convolution that is well; behind one in float, the first one of most networks, the pool then runs on a
kernel for bytes that takes ten times as long as the one for floats. It does not move it over an activation.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Variable, is_op, nodes_of, producer, sole_reader
from graphopt.passes.quantize.placement import Placement

_NEVER_FALL = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Softplus")


def pool_first(graph: Graph, placement: Placement) -> list[Node]:
    """Swaps activations and the pools in float behind them whose results are carried as integers.

    Args:
        graph: changed in place; its results stay what they are (but for the last bits of a Sigmoid or Tanh,
            should a runtime round them another way at other places).
        placement: what is quantized, by name.

    Returns:
        The activations that were moved.
    """
    integer = {n.name for n in placement.nodes}
    found = []
    for pool in list(nodes_of(graph, "MaxPool")):
        if pool.name in integer or pool.outputs[0].name not in placement.carried:
            continue
        activation = producer(pool.inputs[0])
        if _may_follow(graph, activation, pool) and pool.inputs[0].name not in placement.carried:
            _swap(graph, activation, pool)
            found.append(activation)
    return found


def _may_follow(graph: Graph, activation: Node | None, pool: Node) -> bool:
    # Rounded up, the last window may lie outside of the picture, where a(-inf) is none of the values.
    if activation is None or len(pool.outputs) > 1 or pool.attrs.get("ceil_mode", 0):
        return False
    never_falls = is_op(activation, *_NEVER_FALL) or (
        is_op(activation, "LeakyRelu") and activation.attrs.get("alpha", 0.01) >= 0
    )
    return never_falls and sole_reader(graph, activation.outputs[0]) is pool


def _swap(graph: Graph, activation: Node, pool: Node) -> None:
    result, name = pool.outputs[0], graph.fresh_name(f"{pool.outputs[0].name}_pooled")
    pooled = Variable(name, dtype=result.dtype, shape=result.shape)
    pool.inputs[0] = activation.inputs[0]
    pool.outputs = [pooled]
    activation.inputs[0] = pooled
    activation.outputs = [result]
    graph.nodes.remove(activation)
    graph.nodes.insert(graph.nodes.index(pool) + 1, activation)
