"""GELU, Mish, Softplus and Sigmoid as exporters spell them, one function each.

A spelling is found from a node that few other formulas have (Erf, Tanh, Exp): its input has to
read as the right polynomial in some x, and something above it as the right one in x and itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from graphopt.ir.graph import Node, Tensor, is_op, produced_by
from graphopt.passes.simplify.polynomial import (
    Polynomial,
    Reading,
    leaves_of,
    near,
    read_polynomial,
    readers_above,
    same,
    uniform_value,
)
from graphopt.passes.simplify.spelling import Found, goals

_ITSELF: Polynomial = {(1,): 1.0}
_GELU: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # x / 2 + x e / 2
_X_TIMES_E: Polynomial = {(1, 1): 1.0}
_ERF_OF: Polynomial = {(1,): math.sqrt(0.5)}
_TANH_OF: Polynomial = {(1,): math.sqrt(2 / math.pi), (3,): 0.044715 * math.sqrt(2 / math.pi)}
_LINEAR_ABOVE = 15.0


def gelu(erf: Node) -> Iterator[Found]:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    yield from _gelu(erf, _ERF_OF, {})


def gelu_tanh(tanh: Node) -> Iterator[Found]:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
    yield from _gelu(tanh, _TANH_OF, {"approximate": "tanh"})


def _gelu(node: Node, inside: Polynomial, attrs: dict[str, Any]) -> Iterator[Found]:
    for x in leaves_of(node.inputs[0]):
        arg = read_polynomial(node.inputs[0], (x,))
        if arg is None or not near(arg.terms, inside):
            continue
        nodes = [node, *arg.nodes]
        exact = same(arg.terms, inside)
        yield from goals(x, node.outputs[0], nodes, _GELU, "Gelu", attrs, exact=exact)


def mish(tanh: Node) -> Iterator[Found]:
    """x * tanh(softplus(x)); ln(1 + exp(x)) may overflow here, for tanh makes 1 of it as well."""
    arg = tanh.inputs[0]
    soft = produced_by(arg, "Softplus")
    found = (soft.inputs[0], [soft]) if soft is not None else _log_one_plus_exp(arg)
    if found is not None:
        x, nodes = found
        yield from goals(x, tanh.outputs[0], [tanh, *nodes], _X_TIMES_E, "Mish", {})


def softplus(log: Node) -> Iterator[Found]:
    """ln(1 + exp(x)): only nearly Softplus."""
    found = _log_one_plus_exp(log.outputs[0])
    if found is not None:
        flaw = "ln(1 + exp(x)) is infinite above x = 88, where Softplus is not"
        yield Found(log.outputs[0], found[1], "Softplus", [found[0]], flaw=flaw)


def softplus_with_threshold(soft: Node) -> Iterator[Found]:
    """where(x > t, x, softplus(x)), as torch writes it: above t = 15 the two are equal in float32."""
    e = soft.outputs[0]
    for x in leaves_of(soft.inputs[0]):
        arg = read_polynomial(soft.inputs[0], (x,))
        if arg is None or arg.terms != _ITSELF:
            continue
        for low in (e, *readers_above(e)):
            below = read_polynomial(low, (e,))
            if below is None or below.terms != _ITSELF:
                continue
            for where in (n for n in low.outputs if is_op(n, "Where") and n.inputs[2] is low):
                nodes = _threshold(where, x)
                if nodes is not None:
                    inner = [soft, *arg.nodes, *below.nodes, *nodes]
                    yield Found(where.outputs[0], inner, "Softplus", [x])


def _threshold(where: Node, x: Tensor) -> list[Node] | None:
    """The nodes that choose x where it is large enough, or None when they choose otherwise."""
    choice = produced_by(where.inputs[0], "Greater", "GreaterOrEqual")
    if choice is None or where.inputs[1] is not x:
        return None
    compared = read_polynomial(choice.inputs[0], (x,))
    threshold = uniform_value(choice.inputs[1], x)
    if compared is None or compared.terms != _ITSELF or threshold is None:
        return None
    return [where, choice, *compared.nodes] if threshold >= _LINEAR_ABOVE else None


def sigmoid(exp: Node) -> Iterator[Found]:
    """1 / (1 + exp(-x)), and n / (1 + exp(-x)) as n * sigmoid(x) (with n = x that is SiLU)."""
    for x in leaves_of(exp.inputs[0]):
        arg = read_polynomial(exp.inputs[0], (x,))
        if arg is None or arg.terms != {(1,): -1.0}:
            continue
        for add in exp.outputs[0].outputs:
            below = _read_sum(add, exp)
            for node in add.outputs[0].outputs if below is not None else ():
                nodes = [exp, *arg.nodes, add, node]
                yield from _division(node, add.outputs[0], x, nodes)


def _read_sum(add: Node, exp: Node) -> Reading | None:
    if not is_op(add, "Add") or not add.outputs:
        return None
    reading = read_polynomial(add.outputs[0], (exp.outputs[0],))
    return reading if reading and reading.terms == {(0,): 1.0, (1,): 1.0} else None


def _division(node: Node, below: Tensor, x: Tensor, nodes: list[Node]) -> Iterator[Found]:
    if is_op(node, "Reciprocal"):
        yield Found(node.outputs[0], nodes, "Sigmoid", [x])
    if not is_op(node, "Div") or node.inputs[1] is not below or node.inputs[0] is below:
        return
    above = node.inputs[0]
    if any(above is t for n in nodes for t in n.outputs):
        return  # exp(-x) / (1 + exp(-x)) overflows where the product does not
    if uniform_value(above, x) == 1.0:
        yield Found(node.outputs[0], nodes, "Sigmoid", [x])
    else:
        yield Found(node.outputs[0], nodes, "Sigmoid", [x], times=above)


def _log_one_plus_exp(tensor: Tensor) -> tuple[Tensor, list[Node]] | None:
    log = produced_by(tensor, "Log")
    for leaf in leaves_of(log.inputs[0]) if log is not None else ():
        exp = produced_by(leaf, "Exp")
        sum_ = read_polynomial(log.inputs[0], (leaf,)) if log is not None else None
        if exp is not None and sum_ and sum_.terms == {(0,): 1.0, (1,): 1.0}:
            return exp.inputs[0], [log, exp, *sum_.nodes]
    return None
