"""merge-scalar-arithmetic: chains get shorter, never larger, and never less exact."""

from __future__ import annotations

import pytest
from conftest import run_pass

HEAD = "(float[N,3,4] x) => (float[N,3,4] y)"
C = "float two = {2.0}, float three = {3.0}, float one = {1.0}, float zero = {0.0}"

REWRITES = {
    "mul_mul": f"{HEAD} <{C}> {{ a = Mul (x, two)  y = Mul (three, a) }}",
    "add_sub": f"{HEAD} <{C}> {{ a = Add (x, three)  y = Sub (a, one) }}",
    "div_div": f"{HEAD} <{C}> {{ a = Div (x, two)  y = Div (a, three) }}",
    "mul_add_mul": f"{HEAD} <{C}> {{ a = Mul (x, two)  b = Add (a, one)  y = Mul (b, three) }}",
    "mean_and_deviation": f"""{HEAD} <float[3,1] mean, float[3,1] vard, float k = {{255.0}}>
        {{ a = Div (x, k)  b = Sub (a, mean)  y = Div (b, vard) }}""",
    "one_minus": f"{HEAD} <{C}> {{ a = Sub (three, x)  y = Sub (one, a) }}",
    "per_channel_and_scalar": f"{HEAD} <{C}, float[3,1] s> {{ a = Mul (x, s)  y = Mul (a, two) }}",
    "times_one": f"{HEAD} <{C}> {{ n = Neg (x)  y = Mul (n, one) }}",
    "plus_zero": f"{HEAD} <float[3,1] z = {{0.0, 0.0, 0.0}}> {{ n = Neg (x)  y = Add (z, n) }}",
    "divided_by_one": f"{HEAD} <{C}> {{ n = Div (x, one)  m = Sub (n, zero)  y = Neg (m) }}",
    "integers": """(int64[N,4] x) => (int64[N,4] y) <int64 a = {3}, int64 b = {5}>
        { s = Add (x, a)  y = Sub (s, b) }""",
    "integers_cancel": """(int64[N,4] x) => (int64[N,4] y) <int64 a = {3}>
        { m = Neg (x)  s = Add (m, a)  y = Sub (s, a) }""",
    "integer_times_one": """(int32[N,4] x) => (int32[N,4] y) <int32 a = {1}>
        { s = Mul (x, a)  t = Div (s, a)  y = Neg (t) }""",
}

REFUSALS = {
    "cancelling": (
        f"""{HEAD} <float big = {{100000.0}}> {{ a = Add (x, big)  y = Sub (a, big) }}""",
        "cancel each other",
    ),
    "overflowing": (
        f"""{HEAD} <float big = {{1e30}}, float small = {{1e-30}}>
        {{ a = Mul (x, big)  y = Mul (a, small) }}""",
        "overflow",
    ),
    "larger_constant": (
        f"{HEAD} <float[3,1] s, float[4] t> {{ a = Mul (x, s)  y = Mul (a, t) }}",
        "larger than the ones",
    ),
    "half_precision": (
        """(float16[N,4] x) => (float16[N,4] y) <float16[1] s>
        { a = Mul (x, s)  y = Mul (a, s) }""",
        "float16",
    ),
    "integer_products": (
        """(int32[N,4] x) => (int32[N,4] y) <int32 a = {3}>
        { s = Mul (x, a)  y = Mul (s, a) }""",
        "integer products",
    ),
}

LEFT_ALONE = {
    "mul_add": f"{HEAD} <{C}> {{ a = Mul (x, two)  y = Add (a, one) }}",
    "add_mul": f"{HEAD} <{C}> {{ a = Add (x, two)  y = Mul (a, three) }}",
    "one_division": f"{HEAD} <{C}> {{ y = Div (x, three) }}",
    "division_of_a_constant": f"{HEAD} <{C}> {{ a = Div (two, x)  y = Div (three, a) }}",
    "enlarging_one": """(float[1,4] x) => (float[3,4] y) <float[3,1] one = {1.0, 1.0, 1.0}>
        { y = Mul (x, one) }""",
    "integer_division": """(int32[N,4] x) => (int32[N,4] y) <int32 a = {3}>
        { s = Div (x, a)  y = Div (s, a) }""",
    "read_in_between": f"""(float[N,3,4] x) => (float[N,3,4] y, float[N,3,4] z) <{C}>
        {{ a = Mul (x, two)  y = Mul (a, three)  z = Neg (a) }}""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-scalar-arithmetic", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-scalar-arithmetic", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("merge-scalar-arithmetic", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons
