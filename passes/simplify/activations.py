"""The activations as exporters spell them, one function each.

A spelling is found from a node that few other formulas have (Erf, Tanh, a clip, ...): its input has
to read as the right polynomial in some x, and something above it as the right one in x and itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    is_op,
    produced_by,
    value_of,
)
from graphopt.passes.simplify.clips import clipping_chain, combined
from graphopt.passes.simplify.polynomial import (
    Polynomial,
    Reading,
    keeps_shape,
    leaves_of,
    near,
    read_polynomial,
    readers_above,
    same,
    uniform_value,
)

_GELU: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # x / 2 + x e / 2
_X_TIMES_E: Polynomial = {(1, 1): 1.0}
_ERF_OF: Polynomial = {(1,): math.sqrt(0.5)}
_TANH_OF: Polynomial = {(1,): math.sqrt(2 / math.pi), (3,): 0.044715 * math.sqrt(2 / math.pi)}
_HARD_SWISH: Polynomial = {(1,): 1 / 6, (0,): 0.5}


@dataclass(frozen=True)
class Found:
    """`root`, computed by `nodes`, is `op` of `inputs`; `flaw` says why it is only nearly that."""

    root: Tensor
    nodes: list[Node]
    op: str
    inputs: list[Tensor | np.ndarray[Any, Any]]
    attrs: dict[str, Any] = field(default_factory=dict)
    times: Tensor | None = None
    flaw: str | None = None

    def write(self, graph: Graph) -> Tensor:
        """Adds the activation (times another tensor, for x * sigmoid(x)) and returns its result."""
        inputs = [
            add_constant(graph, f"{self.root.name}_slope", t) if isinstance(t, np.ndarray) else t
            for t in self.inputs
        ]
        made = add_node(graph, self.op, inputs, like=self.root, attrs=self.attrs)
        if self.times is None:
            return made
        return add_node(graph, "Mul", [self.times, made], like=self.root)


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
        yield from _goals(x, node.outputs[0], nodes, _GELU, "Gelu", attrs, exact=exact)


def mish(tanh: Node) -> Iterator[Found]:
    """x * tanh(softplus(x)); ln(1 + exp(x)) may overflow here, for tanh makes 1 of it as well."""
    arg = tanh.inputs[0]
    soft = produced_by(arg, "Softplus")
    found = (soft.inputs[0], [soft]) if soft is not None else _log_one_plus_exp(arg)
    if found is not None:
        x, nodes = found
        yield from _goals(x, tanh.outputs[0], [tanh, *nodes], _X_TIMES_E, "Mish", {})


def softplus(log: Node) -> Iterator[Found]:
    """ln(1 + exp(x)): only nearly Softplus."""
    found = _log_one_plus_exp(log.outputs[0])
    if found is not None:
        flaw = "ln(1 + exp(x)) is infinite above x = 88, where Softplus is not"
        yield Found(log.outputs[0], found[1], "Softplus", [found[0]], flaw=flaw)


def hard_swish(node: Node) -> Iterator[Found]:
    """x * clip(x + 3, 0, 6) / 6, and without the x HardSigmoid; clip in any spelling."""
    e = node.outputs[0]
    if node.op == "HardSigmoid":
        slope, shift = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        if _is_hard_swish(slope, shift):
            x = node.inputs[0]
            yield from _goals(x, e, [node], _X_TIMES_E, "HardSwish", {})
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
        yield from _goals(x, e, inner, {(0, 1): 1 / hi}, "HardSigmoid", attrs)
        if hi == 1.0:
            yield Found(e, inner, "HardSigmoid", [x], attrs)
        if _is_hard_swish(slope, shift):
            yield from _goals(x, e, inner, {(1, 1): 1 / hi}, "HardSwish", {})


def _is_hard_swish(slope: float, shift: float) -> bool:
    return same({(1,): slope, (0,): shift}, _HARD_SWISH)


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
    if uniform_value(above, x) == 1.0:
        yield Found(node.outputs[0], nodes, "Sigmoid", [x])
    else:
        yield Found(node.outputs[0], nodes, "Sigmoid", [x], times=above)


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


def _goals(
    x: Tensor,
    e: Tensor,
    nodes: list[Node],
    goal: Polynomial,
    op: str,
    attrs: dict[str, Any],
    *,
    exact: bool = True,
) -> Iterator[Found]:
    """Every result above `e` that reads as the polynomial `goal` in x and e."""
    for root in readers_above(e):
        reading = read_polynomial(root, (x, e))
        if reading is None or not near(reading.terms, goal):
            continue
        flaw = None
        if not (exact and same(reading.terms, goal)):
            flaw = f"it looks like {op}, but a constant is off by more than one part in a million"
        yield Found(root, [*nodes, *reading.nodes], op, [x], attrs, flaw=flaw)


def _log_one_plus_exp(tensor: Tensor) -> tuple[Tensor, list[Node]] | None:
    log = produced_by(tensor, "Log")
    for leaf in leaves_of(log.inputs[0]) if log is not None else ():
        exp = produced_by(leaf, "Exp")
        sum_ = read_polynomial(log.inputs[0], (leaf,)) if log is not None else None
        if exp is not None and sum_ and sum_.terms == {(0,): 1.0, (1,): 1.0}:
            return exp.inputs[0], [log, exp, *sum_.nodes]
    return None


Spelling = Callable[[Node], Iterator[Found]]

# Longer spellings stand before the shorter ones they contain.
SPELLINGS: tuple[tuple[str, Spelling], ...] = (
    ("Erf", gelu),
    ("Tanh", gelu_tanh),
    ("Tanh", mish),
    ("Clip", hard_swish),
    ("Min", hard_swish),
    ("Max", hard_swish),
    ("Relu", hard_swish),
    ("HardSigmoid", hard_swish),
    ("Exp", sigmoid),
    ("Max", leaky_relu),
    ("Relu", prelu),
    ("Log", softplus),
)
