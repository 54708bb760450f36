"""merge-slices: ranges compose as numpy's do, and what cannot compose stays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import run_pass

from graphopt.passes.simplify.merge_slices import composed

C = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
    int64[1] seven = {7}, int64[1] minus = {-1}, int64[1] end = {9223372036854775807}"""

REWRITES = {
    "two_axes": f"""(float[N,9,8] x) => (float[N,3,4] y) <{C}>
        {{ a = Slice (x, one, seven, one, two)  y = Slice (a, zero, end, two, two) }}""",
    "one_axis": f"""(float[N,9,8] x) => (float[N,2,8] y) <{C}>
        {{ a = Slice (x, one, end, one, two)  y = Slice (a, one, minus, one) }}""",
    "symbolic_other_axis": f"""(float[N,C,8] x) => (float[N,c,4] y) <{C}>
        {{ a = Slice (x, one, minus, one)  y = Slice (a, zero, end, two, two) }}""",
    "backwards_on_another_axis": f"""(float[N,9,8] x) => (float[N,2,8] y)
        <{C}, int64[1] start = {{-1}}, int64[1] stop = {{-9223372036854775807}}>
        {{ a = Slice (x, one, three, one)  y = Slice (a, start, stop, two, minus) }}""",
    "first_shared_by_slices": f"""(float[N,9,8] x) => (float[N,6,4] y) <{C}>
        {{ a = Slice (x, one, seven, one)  b = Slice (a, zero, end, two, two)
           c = Slice (a, one, end, two, two)  y = Add (b, c) }}""",
    "takes_everything": f"""(float[N,9,8] x) => (float[N,9,8] y)
        <{C}, int64[1] nine = {{9}}> {{ n = Neg (x)  y = Slice (n, zero, nine, one) }}""",
    "takes_everything_of_a_symbol": f"""(float[N,C,8] x) => (float[N,C,8] y) <{C}>
        {{ a = Slice (x, zero, end, one)  y = Neg (a) }}""",
    "empty": f"""(float[N,9,8] x) => (float[N,0,8] y) <{C}>
        {{ a = Slice (x, one, three, one)  y = Slice (a, seven, end, one) }}""",
}

REFUSALS = {
    "symbolic_axis": (
        f"""(float[N,C,8] x) => (float[N,c,8] y) <{C}>
        {{ a = Slice (x, one, minus, one)  y = Slice (a, one, minus, one) }}""",
        "not a fixed number",
    ),
    "backwards": (
        f"""(float[N,9,8] x) => (float[N,2,8] y) <{C}, int64[1] stop = {{-99}}>
        {{ a = Slice (x, one, three, one)  y = Slice (a, minus, stop, one, minus) }}""",
        "backwards",
    ),
    "first_read_elsewhere": (
        f"""(float[N,9,8] x) => (float[N,2,4] y, float[N,2,8] z) <{C}>
        {{ a = Slice (x, one, three, one)  y = Slice (a, zero, end, two, two)  z = Neg (a) }}""",
        "needed elsewhere",
    ),
}

LEFT_ALONE = {
    "single": f"(float[N,9,8] x) => (float[N,2,8] y) <{C}> {{ y = Slice (x, one, three, one) }}",
    "reverses": f"""(float[N,9,8] x) => (float[N,9,8] y) <{C}, int64[1] stop = {{-99}}>
        {{ y = Slice (x, minus, stop, one, minus) }}""",
    "computed_bounds": f"""(float[N,9,8] x, int64[1] s) => (float[N,n,4] y) <{C}>
        {{ a = Slice (x, s, end, one)  y = Slice (a, zero, end, two, two) }}""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-slices", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-slices", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("merge-slices", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_composes_every_small_range_as_numpy_does() -> None:
    ranges = list(itertools.product((-9, -3, 0, 1, 4), (-2, 0, 3, 5, 99), (1, 2, 3)))
    x = np.arange(6)
    for first, second in itertools.product(ranges, ranges):
        expected = x[slice(*first)][slice(*second)]
        found = x[slice(*composed(6, first, second))]
        np.testing.assert_array_equal(found, expected, err_msg=f"{first} {second}")
