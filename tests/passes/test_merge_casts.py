"""merge-casts: only casts that lose nothing are skipped."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import run_pass

from graphopt.passes.simplify.merge_casts import holds

# ONNX's numbers: 1 float, 2 uint8, 6 int32, 7 int64, 10 float16, 11 double.
REWRITES = {
    "widened_first": """(float[N,4] x) => (int32[N,4] y)
        { a = Cast <to = 11> (x)  y = Cast <to = 6> (a) }""",
    "there_and_back": """(float[N,4] x) => (float[N,4] y)
        { n = Neg (x)  a = Cast <to = 11> (n)  b = Cast <to = 1> (a)  y = Neg (b) }""",
    "own_type": "(float[N,4] x) => (float[N,4] y) { a = Cast <to = 1> (x)  y = Neg (a) }",
    "cast_like": "(int32[N,4] x, float[1] z) => (float[N,4] y) { y = CastLike (x, z) }",
    "cast_like_own_type": """(float[N,4] x, float[1] z) => (float[N,4] y)
        { n = Neg (x)  y = CastLike (n, z) }""",
    "three": """(uint8[N,4] x) => (double[N,4] y)
        { a = Cast <to = 6> (x)  b = Cast <to = 7> (a)  y = Cast <to = 11> (b) }""",
    "bool_by_way_of_float": """(bool[N,4] x) => (int64[N,4] y)
        { a = Cast <to = 1> (x)  y = Cast <to = 7> (a) }""",
    "first_read_elsewhere": """(float16[N,4] x) => (double[N,4] y, float[N,4] z)
        { a = Cast <to = 1> (x)  y = Cast <to = 11> (a)  z = Neg (a) }""",
}

REFUSALS = {
    "narrowed_first": (
        """(float[N,4] x) => (float[N,4] y) { a = Cast <to = 10> (x)  y = Cast <to = 1> (a) }""",
        "loses values",
    ),
    "rounded_first": (
        """(float[N,4] x) => (float[N,4] y) { a = Cast <to = 6> (x)  y = Cast <to = 1> (a) }""",
        "loses values",
    ),
    "long_by_way_of_double": (
        """(int64[N,4] x) => (int64[N,4] y) { a = Cast <to = 11> (x)  y = Cast <to = 7> (a) }""",
        "loses values",
    ),
    "signed_to_unsigned_by_way_of_float": (
        """(int8[N,4] x) => (int32[N,4] y)
        { a = Cast <to = 1> (x)  b = Cast <to = 2> (a)  c = Clip (b)  y = Cast <to = 6> (c) }""",
        "do not fit",
    ),
}


@pytest.mark.parametrize("case", REWRITES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-casts", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-casts", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("float64", "int32", True),
        ("float64", "int64", False),
        ("float32", "int32", False),
        ("float16", "uint8", True),
        ("int16", "uint8", True),
        ("uint16", "int8", False),
        ("float32", "float16", True),
        ("int8", "bool", True),
    ],
)
def test_holds(wide: str, narrow: str, expected: bool) -> None:
    assert holds(np.dtype(wide), np.dtype(narrow)) is expected
