"""The transforms of Winograd's convolutions, in exact fractions, and sums that follow from them.

Cook and Toom: the product of two polynomials is known from its values at enough points. F(m, 3) takes
m + 1 points and infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import TypeAlias

from graphopt.runtime.kernels.simd import Value, constant, let

Matrix: TypeAlias = "list[list[Fraction]]"

_POINTS = [Fraction(0), *(Fraction(n) for p in ("1", "2", "1/2") for n in (p, "-" + p))]


@cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) of F(m, 3), with shapes (m, m + 2), (m + 2, 3), (m + 2, m + 2).

    Points 0, 1, -1, 2, -2, 1/2, -1/2 in this order, and infinity.
    """
    points = _POINTS[: m + 1]
    one, none = Fraction(1), Fraction(0)
    output = [[x**i for x in points] + [one if i == m - 1 else none] for i in range(m)]
    weight, given = [], []
    for j, x in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = one
        for other in others:
            scale *= x - other
        weight.append([x**k / scale for k in range(3)])
        given.append(_polynomial(others, m + 2))
    return output, [*weight, [none, none, one]], [*given, _polynomial(points, m + 2)]


def _polynomial(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest first."""
    found = [Fraction(1)]
    for root in roots:
        moved = [Fraction(0), *found]
        found = [a - root * b for a, b in zip(moved, [*found, Fraction(0)], strict=True)]
    return found + [Fraction(0)] * (length - len(found))


def combined(row: Sequence[Fraction], values: Sequence[Value], lanes: int) -> Value:
    """The sum of row[k] * values[k], with terms of equal size of coefficient added first."""
    groups: dict[Fraction, Value] = {}
    for factor, term in zip(row, values, strict=True):
        if not factor:
            continue
        size = abs(factor)
        if size not in groups:
            groups[size] = term if factor > 0 else constant(0.0, "float32", lanes) - term
        else:
            groups[size] = groups[size] + term if factor > 0 else groups[size] - term
    total = None
    for size, term in sorted(groups.items(), reverse=True):
        scaled = term if size == 1 else term * constant(float(size), "float32", lanes)
        total = scaled if total is None else total + scaled
    return let(total)
