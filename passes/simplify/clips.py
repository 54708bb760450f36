"""Clip, Relu, Min and Max with a constant: one way to read what they keep of their input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from graphopt.ir.graph import Node, Tensor, input_of, is_op, producer, scalar_of, value_of
from graphopt.passes.simplify.polynomial import uniform_value

_EXACT_INTEGERS = 2**53

CLIPPING = ("Clip", "Relu", "Min", "Max")


@dataclass(frozen=True)
class Clipping:
    """A node that computes min(hi, max(lo, source)), lo <= hi."""

    node: Node
    source: Tensor
    lo: float
    hi: float


def clipping_of(tensor: Tensor) -> Clipping | None:
    """How the producer of `tensor` clips its input to constant bounds, or None when it does not."""
    node = producer(tensor)
    if not is_op(node, *CLIPPING) or node is None:
        return None
    if node.op == "Relu":
        return Clipping(node, node.inputs[0], 0.0, math.inf)
    if node.op == "Clip":
        bounds = [_bound(input_of(node, 1), -math.inf), _bound(input_of(node, 2), math.inf)]
        return _clipping(node, node.inputs[0], *bounds)
    if len(node.inputs) != 2:
        return None
    for source, limit in (node.inputs, reversed(node.inputs)):
        number = uniform_value(limit, source)
        if _is_bound(number, limit) and value_of(source) is None:
            return _clipping(node, source, *_one_sided(node.op, number))
    return None


def clipping_chain(tensor: Tensor) -> list[Clipping]:
    """The clipping nodes that end in `tensor`, last first."""
    chain: list[Clipping] = []
    each = clipping_of(tensor)
    while each is not None:
        chain.append(each)
        each = clipping_of(each.source)
    return chain


def combined(chain: list[Clipping]) -> tuple[float, float]:
    """The bounds of one Clip that does what the chain (last first) does."""
    lo, hi = -math.inf, math.inf
    for each in reversed(chain):
        # The later node clips the bounds of the earlier one: an empty overlap becomes a constant.
        lo, hi = (min(max(bound, each.lo), each.hi) for bound in (lo, hi))
    return lo, hi


def _one_sided(op: str, number: float) -> tuple[float, float]:
    return (-math.inf, number) if op == "Min" else (number, math.inf)


def _clipping(node: Node, source: Tensor, lo: float | None, hi: float | None) -> Clipping | None:
    # Above one another the bounds mean different things in different opsets and runtimes.
    if lo is None or hi is None or not lo <= hi:
        return None
    if lo == math.inf or hi == -math.inf:
        return None  # all its results are infinite, which a missing bound would not say
    return Clipping(node, source, lo, hi)


def _bound(tensor: Tensor | None, default: float) -> float | None:
    if tensor is None:
        return default
    number = scalar_of(tensor)
    return number if _is_bound(number, tensor) else None


def _is_bound(number: float | None, constant: Tensor) -> TypeGuard[float]:
    """Whether the number read from a constant is exactly the one it holds."""
    values = value_of(constant)
    if number is None or values is None or np.isnan(number):
        return False
    return values.dtype.kind not in "iu" or abs(number) < _EXACT_INTEGERS
