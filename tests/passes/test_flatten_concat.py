"""flatten-concat: nested, single, empty and constant inputs; what others read stays."""

from __future__ import annotations

import pytest
from conftest import run_pass

FLATTENS = {
    "nested_first": """(float[N,2] x, float[N,3] z) => (float[N,7] y)
        { a = Concat <axis = 1> (x, z)  y = Concat <axis = 1> (a, x) }""",
    "nested_last_negative_axis": """(float[N,2] x, float[N,3] z) => (float[N,7] y)
        { a = Concat <axis = -1> (x, z)  y = Concat <axis = 1> (x, a) }""",
    "three_levels": """(float[N,2] x) => (float[N,8] y)
        { a = Concat <axis = 1> (x, x)  b = Concat <axis = 1> (x, a)
          y = Concat <axis = 1> (b, x) }""",
    "single": """(float[N,2] x) => (float[N,2] y)
        { r = Relu (x)  a = Concat <axis = 1> (r)  y = Sigmoid (a) }""",
    "single_input_to_output": """(float[N,2] x) => (float[N,2] y) { y = Concat <axis = 1> (x) }""",
    "empty_input": """(float[4,2] x, float[4,3] z) => (float[4,5] y) <int64[1] k = {0}, int64[1] o = {1}>
        { e = Slice (x, k, k, o)  y = Concat <axis = 1> (x, e, z) }""",
    "neighbouring_constants": """(float[1,2] x) => (float[1,9] y) <float[1,2] a, float[1,3] b, float[1,2] c>
        { y = Concat <axis = 1> (a, b, x, c) }""",
    "constants_across_levels": """(float[1,2] x) => (float[1,7] y) <float[1,2] a, float[1,3] b>
        { i = Concat <axis = 1> (x, a)  y = Concat <axis = 1> (i, b) }""",
}

REFUSALS = {
    "inner_read_elsewhere": (
        """(float[N,2] x, float[N,3] z) => (float[N,7] y, float[N,5] v)
        { a = Concat <axis = 1> (x, z)  y = Concat <axis = 1> (a, x)  v = Relu (a) }""",
        "read elsewhere",
    ),
    "inner_is_output": (
        """(float[N,2] x, float[N,3] z) => (float[N,7] y, float[N,5] a)
        { a = Concat <axis = 1> (x, z)  y = Concat <axis = 1> (a, x) }""",
        "read elsewhere",
    ),
    "inner_read_twice": (
        """(float[N,2] x, float[N,3] z) => (float[N,10] y)
        { a = Concat <axis = 1> (x, z)  y = Concat <axis = 1> (a, a) }""",
        "read elsewhere",
    ),
}

LEFT_ALONE = {
    "another_axis": """(float[2,2] x, float[2,2] z) => (float[4,4] y)
        { a = Concat <axis = 1> (x, z)  b = Concat <axis = 1> (z, x)  y = Concat <axis = 0> (a, b) }""",
    "unknown_size": """(float[N,M] x, float[N,3] z) => (float[N,?] y) { y = Concat <axis = 1> (x, z) }""",
    "constants_apart": """(float[1,2] x) => (float[1,6] y) <float[1,2] a, float[1,2] b>
        { y = Concat <axis = 1> (a, x, b) }""",
}


@pytest.mark.parametrize("case", FLATTENS)
def test_flattens(case: str, golden) -> None:
    ran = run_pass("flatten-concat", FLATTENS[case])
    assert ran.result.status == "verified"
    golden(ran.text)
    assert run_pass("flatten-concat", ran.graph).result.status == "unchanged"


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("flatten-concat", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("flatten-concat", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert ran.reasons == []
