"""Arithmetic with constants, read as polynomials: every way to write a formula reads the same.

    0.5 * x * (1 + e),  x * (e / 2 + 0.5),  (x * 0.5) * e + x / 2   are all   {x: 0.5, x e: 0.5}

A polynomial maps exponents (one per symbol) to coefficients: {(1, 0): 0.5, (1, 1): 0.5} above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphopt.ir.graph import STANDARD_DOMAINS, Node, Tensor, producer, rank_of, value_of

Polynomial: TypeAlias = "dict[tuple[int, ...], float]"

ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Pow")
# Formulas longer than this are no spelling of anything, and reading them would cost time.
_MOST_NODES = 16
_HIGHEST_DEGREE = 4
# A constant this close to the ideal one is the ideal one, rounded to float32 once or twice.
_SAME = 1e-6
_NEAR = 2e-2


@dataclass
class Reading:
    """A tensor read as a polynomial, and the nodes that were read."""

    terms: Polynomial
    nodes: list[Node] = field(default_factory=list)


def read_polynomial(tensor: Tensor, symbols: Sequence[Tensor]) -> Reading | None:
    """`tensor` as a polynomial in `symbols` (tensors of one shape), or None when it is not one."""
    nodes: list[Node] = []
    terms = _terms(tensor, symbols, nodes)
    return None if terms is None else Reading(terms, nodes)


def uniform_value(tensor: Tensor | None, like: Tensor) -> float | None:
    """The one number a constant holds, if combining it with `like` keeps the shape of `like`."""
    values = value_of(tensor)
    if values is None or values.dtype.kind not in "fiu" or not values.size:
        return None
    first = values.reshape(-1)[0]
    if not keeps_shape(values.shape, like) or not np.all(values == first):
        return None
    return float(first)


def keeps_shape(shape: Sequence[int], like: Tensor) -> bool:
    """Whether a constant of `shape` broadcast against `like` certainly keeps its shape."""
    if not shape:
        return True
    rank = rank_of(like)
    if rank is None or len(shape) > rank:
        return False
    dims = list(like.shape)[rank - len(shape) :]
    return all(s in (1, d) for s, d in zip(shape, dims, strict=True))


def same(found: Polynomial, ideal: Polynomial, rtol: float = _SAME) -> bool:
    """Whether two polynomials have the same terms, with coefficients within `rtol`."""
    if found.keys() != ideal.keys():
        return False
    return all(abs(found[k] - c) <= rtol * abs(c) for k, c in ideal.items())


def near(found: Polynomial, ideal: Polynomial) -> bool:
    """Whether two polynomials differ by no more than constants that were rounded too early."""
    return same(found, ideal, _NEAR)


def leaves_of(tensor: Tensor) -> Iterator[Tensor]:
    """`tensor` and every computed tensor under it down to the first that is no arithmetic."""
    stack, seen = [tensor], set[int]()
    while stack and len(seen) < _MOST_NODES:
        each = stack.pop()
        if id(each) in seen or value_of(each) is not None:
            continue
        seen.add(id(each))
        yield each
        node = producer(each)
        if node is not None and _is_arithmetic(node):
            stack += node.inputs


def readers_above(tensor: Tensor) -> Iterator[Tensor]:
    """The results computed from `tensor` by arithmetic alone, nearest first."""
    queue, seen = [tensor], set[int]()
    while queue and len(seen) < _MOST_NODES:
        for node in queue.pop(0).outputs:
            if _is_arithmetic(node) and node.outputs and id(node) not in seen:
                seen.add(id(node))
                queue.append(node.outputs[0])
                yield node.outputs[0]


def _is_arithmetic(node: Node) -> bool:
    return node.op in ARITHMETIC and node.domain in STANDARD_DOMAINS


def _terms(tensor: Tensor, symbols: Sequence[Tensor], nodes: list[Node]) -> Polynomial | None:
    for i, symbol in enumerate(symbols):
        if tensor is symbol:
            return {tuple(int(i == k) for k in range(len(symbols))): 1.0}
    if value_of(tensor) is not None:
        number = uniform_value(tensor, symbols[0])
        return None if number is None else {(0,) * len(symbols): number}
    node = producer(tensor)
    if node is None or not _is_arithmetic(node) or len(nodes) >= _MOST_NODES:
        return None
    nodes.append(node)
    parts: list[Polynomial] = []
    for t in node.inputs:
        part = _terms(t, symbols, nodes)
        if part is None:
            return None
        parts.append(part)
    return _combined(node.op, parts)


def _combined(op: str, parts: list[Polynomial]) -> Polynomial | None:
    a = parts[0]
    if op == "Neg":
        return _scaled(a, -1.0)
    b = parts[1]
    if op in ("Add", "Sub"):
        return _sum(a, b if op == "Add" else _scaled(b, -1.0))
    if op == "Mul":
        return _product(a, b)
    number = _number(b)
    if number is None:
        return None
    if op == "Div":
        return _scaled(a, 1.0 / number) if number else None
    return _power(a, number)


def _number(terms: Polynomial) -> float | None:
    """The value of a polynomial without symbols."""
    ((exponents, value), *rest) = terms.items() if terms else [((0,), 0.0)]
    return None if rest or any(exponents) else value


def _scaled(a: Polynomial, factor: float) -> Polynomial:
    return _tidy({k: v * factor for k, v in a.items()})


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return _tidy({k: a.get(k, 0.0) + b.get(k, 0.0) for k in {**a, **b}})


def _product(a: Polynomial, b: Polynomial) -> Polynomial | None:
    terms: Polynomial = {}
    for ka, va in a.items():
        for kb, vb in b.items():
            key = tuple(i + j for i, j in zip(ka, kb, strict=True))
            terms[key] = terms.get(key, 0.0) + va * vb
    return None if any(sum(k) > _HIGHEST_DEGREE for k in terms) else _tidy(terms)


def _power(a: Polynomial, exponent: float) -> Polynomial | None:
    if exponent not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = a
    for _ in range(int(exponent) - 1):
        result = None if result is None else _product(result, a)
    return result


def _tidy(terms: Polynomial) -> Polynomial:
    return {k: v for k, v in terms.items() if v != 0.0}
