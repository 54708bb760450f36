"""HardSigmoid, HardSwish, LeakyRelu and PRelu as exporters spell them, one function each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.ir.graph import Node, Tensor, is_op, value_of
from graphopt.passes.simplify.clips import clipping_chain, combined
from graphopt.passes.simplify.polynomial import (
    Polynomial,
    keeps_shape,
    leaves_of,
    read_polynomial,
    readers_above,
    same,
)
from graphopt.passes.simplify.spelling import Found, goals

_X_TIMES_E: Polynomial = {(1, 1): 1.0}
_HARD_SWISH: Polynomial = {(1,): 1 / 6, (0,): 0.5}


def hard_swish(node: Node) -> Iterator[Found]:
    """x * clip(x + 3, 0, 6) / 6, and without the x HardSigmoid; clip in any spelling."""
    e = node.outputs[0]
    if node.op == "HardSigmoid":
        slope, shift = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        if _is_hard_swish(slope, shift):
            x = node.inputs[0]
            yield from goals(x, e, [node], _X_TIMES_E, "HardSwish", {})
        return
    chain = clipping_chain(e)
    if not chain:
        return
    lo, hi = combined(chain)
    source, nodes = chain[-1].source, [c.node for c in chain]
    if lo != 0.0 or not 0.0 < hi < math.inf:
        return
    for x in leaves_of(source):
        arg = read_polynomial(source, (x,))
        if arg is None or arg.terms.keys() != {(1,), (0,)}:
            continue
        slope, shift = arg.terms[1,] / hi, arg.terms[0,] / hi
        inner = [*nodes, *arg.nodes]
        attrs = {"alpha": slope, "beta": shift}
        yield from goals(x, e, inner, {(0, 1): 1 / hi}, "HardSigmoid", attrs)
        if hi == 1.0:
            yield Found(e, inner, "HardSigmoid", [x], attrs)
        if _is_hard_swish(slope, shift):
            yield from goals(x, e, inner, {(1, 1): 1 / hi}, "HardSwish", {})


def _is_hard_swish(slope: float, shift: float) -> bool:
    return same({(1,): slope, (0,): shift}, _HARD_SWISH)


def leaky_relu(node: Node) -> Iterator[Found]:
    """max(x, a x) with 0 < a < 1."""
    for x, other in ((node.inputs[0], node.inputs[-1]), (node.inputs[-1], node.inputs[0])):
        arg = read_polynomial(other, (x,)) if value_of(x) is None else None
        if len(node.inputs) != 2 or arg is None or arg.terms.keys() != {(1,)}:
            continue
        slope = arg.terms[1,]
        if 0.0 < slope < 1.0:
            yield Found(node.outputs[0], [node, *arg.nodes], "LeakyRelu", [x], {"alpha": slope})


def prelu(relu: Node) -> Iterator[Found]:
    """relu(x) - a relu(-x): LeakyRelu for one number a, PRelu for one per channel."""
    for x in leaves_of(relu.inputs[0]):
        arg = read_polynomial(relu.inputs[0], (x,))
        if arg is None or arg.terms != {(1,): -1.0}:
            continue
        inner = [relu, *arg.nodes]
        for positive in (n for n in x.outputs if is_op(n, "Relu") and n.outputs):
            yield from _leaky_sum(x, relu.outputs[0], positive, inner)
            yield from _prelu_sum(x, relu.outputs[0], positive, inner)


def _leaky_sum(x: Tensor, e: Tensor, positive: Node, inner: list[Node]) -> Iterator[Found]:
    for root in readers_above(e):
        sum_ = read_polynomial(root, (e, positive.outputs[0]))
        if sum_ is None or sum_.terms.keys() != {(1, 0), (0, 1)} or sum_.terms[0, 1] != 1.0:
            continue
        if abs(sum_.terms[1, 0]) != 1.0:  # else it is x or |x|
            nodes = [*inner, positive, *sum_.nodes]
            yield Found(root, nodes, "LeakyRelu", [x], {"alpha": -sum_.terms[1, 0]})


def _prelu_sum(x: Tensor, e: Tensor, positive: Node, inner: list[Node]) -> Iterator[Found]:
    for mul in (n for n in e.outputs if is_op(n, "Mul") and n.outputs):
        slope = mul.inputs[1] if mul.inputs[0] is e else mul.inputs[0]
        values = value_of(slope)
        if values is None or values.size == 1 or not keeps_shape(values.shape, x):
            continue
        for root in (n for n in mul.outputs[0].outputs if is_op(n, "Add", "Sub") and n.outputs):
            if not any(t is positive.outputs[0] for t in root.inputs):
                continue
            if root.op == "Add":
                slope = -values
            elif root.inputs[1] is positive.outputs[0]:
                continue
            yield Found(root.outputs[0], [*inner, positive, mul, root], "PRelu", [x, slope])
