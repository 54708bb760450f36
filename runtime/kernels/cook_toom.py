"""The transforms of Winograd's convolutions, in exact fractions, and sums that follow from them.

Cook and Toom: the product of two polynomials is known from its values at enough points. F(m, 3) takes
m + 1 points and infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import TypeAlias

from graphopt.runtime.kernels.simd import Machine, Value, constant, let

Matrix: TypeAlias = "list[list[Fraction]]"


def _fractions(text: str) -> list[Fraction]:
    return [sign * Fraction(p) for p in text.split() for sign in ((1, -1) if p != "0" else (1,))]


# Points and their negatives; the transforms of both share what they compute. Of the sets tried in
# float16 these lose the fewest digits: F(4, 3) at 0, 1, -1, 2, -2 is off four times as far.
_POINTS = {
    2: _fractions("0 1"),
    3: _fractions("1/2 3/2"),
    4: _fractions("0 2/3 3/2"),
    5: _fractions("1/3 1 2"),
}
_ZERO = Fraction(0)


@cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) of F(m, 3), with shapes (m, m + 2), (m + 2, 3), (m + 2, m + 2).

    One of the points is infinity.
    """
    points = _POINTS[m]
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


def transformed(rows: Matrix, values: Sequence[Value], machine: Machine) -> list[Value]:
    """The products of a matrix with a vector of vectors, row by row.

    Rows of a point and of its negative differ in the sign of every other term: both are the sum and
    the difference of the even and the odd ones.
    """
    made: list[Value] = []
    while len(made) < len(rows):
        row = rows[len(made)]
        other = rows[len(made) + 1] if len(made) + 1 < len(rows) else None
        sign = None if other is None else _mirrored(row, other)
        if sign is None:
            made.append(let(_sum(row, values, machine)))
            continue
        even = let(_sum([f if k % 2 == 0 else _ZERO for k, f in enumerate(row)], values, machine))
        odd = let(_sum([f if k % 2 else _ZERO for k, f in enumerate(row)], values, machine))
        made += [let(even + odd), let(even - odd if sign > 0 else odd - even)]
    return made


def _mirrored(row: Sequence[Fraction], other: Sequence[Fraction]) -> int | None:
    """The s with other[k] == s (-1)^k row[k], where both kinds of terms are there."""
    if not any(row[::2]) or not any(row[1::2]):
        return None
    for sign in (1, -1):
        if all(b == sign * (-1) ** k * a for k, (a, b) in enumerate(zip(row, other, strict=True))):
            return sign
    return None


def _sum(row: Sequence[Fraction], values: Sequence[Value], machine: Machine) -> Value:
    """The sum of row[k] * values[k], with terms of equal size of coefficient added first."""
    groups: dict[Fraction, Value] = {}
    for factor, term in zip(row, values, strict=True):
        if not factor:
            continue
        size = abs(factor)
        if size not in groups:
            groups[size] = (
                term if factor > 0 else constant(0.0, machine.dtype, machine.lanes) - term
            )
        else:
            groups[size] = groups[size] + term if factor > 0 else groups[size] - term
    total = None
    for size, term in sorted(groups.items()):
        scaled = term if size == 1 else term * constant(float(size), machine.dtype, machine.lanes)
        total = scaled if total is None else total + scaled
    return total
