"""The activation a tensor goes through next, as a function: what of a rounding error it lets pass.

SiLU, HardSwish and Mish are 0 far below 0: how exactly a value there is represented does not
matter, and a grid that does not reach down there is finer where it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, is_op, is_output, sole_reader

Array = np.ndarray[Any, Any]
Curve = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return np.asarray(x * sigmoid(x))


def mish(x: Array) -> Array:
    """x tanh(ln(1 + e^x))."""
    return np.asarray(x * np.tanh(np.logaddexp(0, x)))


def hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    """clip(alpha x + beta, 0, 1)."""
    return np.clip(alpha * x + beta, 0.0, 1.0)


def hard_swish(x: Array) -> Array:
    """x clip(x / 6 + 1 / 2, 0, 1)."""
    return np.asarray(x * hard_sigmoid(x, 1 / 6, 0.5))


_CURVES: dict[str, Curve] = {
    "Sigmoid": sigmoid,
    "HardSwish": hard_swish,
    "Mish": mish,
    "Tanh": np.tanh,
}


def curve_behind(graph: Graph, tensor: Tensor) -> Curve | None:
    """The one activation everyone sees this tensor through, or None."""
    if is_output(graph, tensor):
        return None
    gate = gated_by(graph, tensor)
    if gate is not None:
        return silu if gate[0].op == "Sigmoid" else _gate_curve(gate[0])
    if len(tensor.outputs) != 1:
        return None
    reader = tensor.outputs[0]
    if is_op(reader, "HardSigmoid"):
        return _hard_sigmoid_of(reader)
    return _CURVES.get(reader.op) if is_op(reader, *_CURVES) else None


def gated_by(graph: Graph, out: Tensor) -> tuple[Node, Node] | None:
    """The Sigmoid (or HardSigmoid) and the Mul of x * sigmoid(x) over `out`, or None."""
    if len(out.outputs) != 2 or is_output(graph, out):
        return None
    gate = next((n for n in out.outputs if is_op(n, "Sigmoid", "HardSigmoid")), None)
    product = next((n for n in out.outputs if is_op(n, "Mul")), None)
    if gate is None or product is None or sole_reader(graph, gate.outputs[0]) is not product:
        return None
    return gate, product


def _hard_sigmoid_of(node: Node) -> Curve:
    alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    return lambda x: hard_sigmoid(x, alpha, beta)


def _gate_curve(node: Node) -> Curve:
    inner = _hard_sigmoid_of(node)
    return lambda x: np.asarray(x * inner(x))
