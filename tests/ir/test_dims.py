"""Shape arithmetic on numbers and names: what is followed, and how shapes compare."""

from __future__ import annotations

import pytest
from conftest import graph_from

from graphopt.ir.dims import Values, dropped_ones, quotient, same_dims


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Add (n, zero)", ["N"]),
        ("Add (zero, n)", ["N"]),
        ("Sub (n, zero)", ["N"]),
        ("Sub (zero, n)", [None]),
        ("Mul (n, one)", ["N"]),
        ("Div (n, one)", ["N"]),
        ("Add (n, one)", [None]),
        ("Sub (c, one)", [11]),
        ("Concat <axis = 0> (n, c)", ["N", 12]),
        ("Unsqueeze (n, zero)", None),
    ],
)
def test_values_of_shape_arithmetic(expression: str, expected: list | None) -> None:
    graph = graph_from(
        f"""(float[N,12] x) => (int64[?] y) <int64[1] zero = {{0}}, int64[1] one = {{1}}>
        {{ n = Shape <start = 0, end = 1> (x)  c = Shape <start = 1, end = 2> (x)
           y = {expression} }}"""
    )
    found = Values(graph).of(graph.outputs[0])
    assert found is not None
    if expected is not None:
        assert found.tolist() == expected


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        ((2, 3, 4), (6,), 4),
        (("N", 3, 8), ("N", 4), 6),
        (("N", 3, 8), (24,), "N"),
        (("N", 3, 8), (12,), None),
        (("N", 3), ("M",), None),
        ((0, 3), (0,), None),
        ((None, 3), (3,), None),
        ((7,), (2,), None),
    ],
)
def test_quotient(whole: tuple, part: tuple, expected: int | str | None) -> None:
    assert quotient(whole, part) == expected


def test_same_dims_counts_elements() -> None:
    assert same_dims(("N", 3), ("M", 3))
    assert same_dims(("N", 3), (None, 3))
    assert not same_dims(("N", 3), ("N", 4))
    assert not same_dims(("N", "M", 3), ("M", "N", 3))
    assert not same_dims(("N", 0), ("M", 0))
    assert not same_dims((4, None), (4, 1, None))


def test_dropped_ones() -> None:
    assert dropped_ones((1, "N", 1, 4), ("N", 4)) == [0, 2]
    assert dropped_ones((1, 1, 4), (1, 4)) == [1]
    assert dropped_ones((2, 4), (4,)) is None
    assert dropped_ones((None, 1), (None,)) is None
    assert dropped_ones(("N", 4), ("N", 4)) is None
