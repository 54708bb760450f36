"""fold-shapes: arithmetic on known dimensions becomes numbers, what run time knows stays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import run_pass

FOLDS = {
    "channels_divided": """(float[N,12,4,4] x) => (float[N,?,?,?] y)
        <int64 one = {1}, int64 three = {3}, int64[1] zero = {0}, int64[1] axis = {1}>
        { s = Shape (x)  c = Gather (s, one)  d = Div (c, three)  e = Unsqueeze (d, zero)
          y = Slice (x, zero, e, axis) }""",
    "shape_from_start_to_end": """(float[N,12,4,5] x) => (float[N,12,?,?] y)
        <int64[1] zero = {0}, int64[1] three = {3}>
        { s = Shape <start = 2, end = 3> (x)  m = Sub (s, zero)  y = Slice (x, zero, m, three) }""",
    "pads_of_an_export": """(float[N,2,4,4] x) => (float[N,2,?,?] y)
        <int64[4] p = {0,1,0,2}, int64[1] four = {4}, int64[2] two = {-1,2}, int64[1] m = {-1},
         int64[1] far = {-9223372036854775807}, int64[1] zero = {0}>
        { f = ConstantOfShape <value: tensor = int64[1] {0}> (four)  c = Concat <axis = 0> (p, f)
          r = Reshape (c, two)  s = Slice (r, m, far, zero, m)  t = Transpose <perm = [1,0]> (s)
          q = Reshape (t, m)  y = Pad <mode = "edge"> (x, q) }""",
    "second_round_after_inference": """(float[N,12,4,4] x) => (float[N,?,?,?] y)
        <int64[1] two = {2}, int64[1] zero = {0}, int64[1] one = {1}>
        { s = Shape <start = 1, end = 2> (x)  d = Div (s, two)  z = Slice (x, zero, d, one)
          r = Relu (z)  t = Shape <start = 1, end = 2> (r)  e = Div (t, two)
          y = Slice (r, zero, e, one) }""",
    "expand_with_where": """(float[N,3,4] x, float[1,3,1] z) => (float[1,3,4] y)
        <int64[3] m = {-1,-1,-1}, int64[3] ones = {1,1,1}, int64[1] zero = {0}, int64 one = {1}>
        { s = Shape <start = 1, end = 3> (x)  t = Concat <axis = 0> (zero, s)
          e = Equal (t, m)  w = Where (e, ones, t)  k = Max (w, one)  y = Expand (z, k) }""",
    "condition_on_a_symbol": """(float[N,3,4] x) => (float[N,3,?] y)
        <int64 m = {-1}, int64[1] one = {1}, int64[1] two = {2}, int64[1] zero = {0}>
        { s = Shape <start = 0, end = 1> (x)  e = Equal (s, m)  w = Where (e, one, two)
          y = Slice (x, zero, w, two) }""",
}

LEFT_ALONE = {
    "symbolic": """(float[N,12,4,4] x) => (float[?,12,4,4] y)
        <int64 two = {2}, int64[1] zero = {0}>
        { s = Shape <start = 0, end = 1> (x)  d = Div (s, two)  y = Slice (x, zero, d, zero) }""",
    "an_output_of_the_model": """(float[N,12,4,4] x) => (int64[2] y)
        { y = Shape <start = 2, end = 4> (x) }""",
    "float_arithmetic": """(float[N,12,4,4] x) => (float[N,12,4,4] y) <float half = {0.5}>
        { s = Shape <start = 0, end = 1> (x)  c = Cast <to = 1> (s)  h = Mul (c, half)
          y = Mul (x, h) }""",
    "two_different_symbols": """(float[N,M] x) => (bool[1] y)
        { a = Shape <start = 0, end = 1> (x)  b = Shape <start = 1, end = 2> (x)
          c = Equal (a, b)  y = Not (c) }""",
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fold-shapes", FOLDS[case])
    assert ran.result.status == "verified"
    assert "Shape" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("fold-shapes", LEFT_ALONE[case])
    assert "Shape" in ran.ops
    assert ran.result.status == "unchanged"


def test_a_division_of_negative_numbers_is_left_alone() -> None:
    ran = run_pass(
        "fold-shapes",
        """(float[N,12] x) => (int64[1] y) <int64[1] big = {19}, int64[1] two = {2}>
        { s = Shape <start = 1, end = 2> (x)  n = Sub (s, big)  d = Div (n, two)  y = Neg (d) }""",
    )
    assert ran.ops == ["Div", "Neg"]


def test_constants_of_the_original_are_not_written() -> None:
    from conftest import graph_from

    graph = graph_from(FOLDS["pads_of_an_export"])
    before = {n: t.values.copy() for n, t in graph.tensors().items() if hasattr(t, "values")}
    run_pass("fold-shapes", graph)
    for name, tensor in graph.tensors().items():
        if name in before:
            np.testing.assert_array_equal(tensor.values, before[name])
