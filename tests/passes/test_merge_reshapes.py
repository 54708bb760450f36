"""merge-reshapes: chains become one operator, targets become constant, with a symbolic batch."""

from __future__ import annotations

import pytest
from conftest import run_pass

MERGES = {
    # onnxoptimizer keeps the second target, [0, -1], and gives [2, 1024] here.
    "zero_copies_from_the_middle": """(float[2,4,256] x) => (float[8,256] y)
        <int64[3] a = {8,16,16}, int64[2] b = {0,-1}>
        { r = Reshape (x, a)  y = Reshape (r, b) }""",
    "three_in_a_row": """(float[N,8,2,2] x) => (float[N,4,8] y)
        <int64[3] a = {0,16,-1}, int64[2] b = {-1,32}, int64[3] c = {0,4,8}>
        { r = Reshape (x, a)  s = Reshape (r, b)  y = Reshape (s, c) }""",
    "flatten_then_unsqueeze": """(float[N,8,2,2] x) => (float[N,32,1] y) <int64[1] two = {2}>
        { f = Flatten (x)  y = Unsqueeze (f, two) }""",
    "squeeze_twice": """(float[N,8,1,1] x) => (float[N,8] y) <int64[1] a = {3}, int64[1] b = {2}>
        { s = Squeeze (x, a)  y = Squeeze (s, b) }""",
    "squeeze_twice_many_symbols": """(float[N,H,1,W,1] x) => (float[N,H,W] y)
        <int64[1] a = {4}, int64[1] b = {2}> { s = Squeeze (x, a)  y = Squeeze (s, b) }""",
    "unsqueeze_twice": """(float[N,8] x) => (float[N,8,1,1] y) <int64[1] a = {2}, int64[1] b = {3}>
        { s = Unsqueeze (x, a)  y = Unsqueeze (s, b) }""",
    "there_and_back": """(float[N,8,2,2] x) => (float[N,8,2,2] y)
        <int64[2] a = {-1,32}, int64[4] b = {-1,8,2,2}>
        { z = Relu (x)  r = Reshape (z, a)  s = Reshape (r, b)  y = Sigmoid (s) }""",
    "back_to_the_shape_two_steps_ago": """(float[N,8] x) => (float[N,8] y, float[N,2,4] z)
        <int64[3] a = {-1,2,4}, int64[2] b = {-1,8}>
        { v = Relu (x)  r = Reshape (v, a)  z = Sigmoid (r)  s = Reshape (r, b)  y = Relu (s) }""",
    "no_change_at_all": """(float[N,8] x) => (float[N,8] y) <int64[2] a = {-1,8}>
        { v = Relu (x)  r = Reshape (v, a)  y = Sigmoid (r) }""",
    "flatten_of_a_matrix": """(float[N,8] x) => (float[N,8] y)
        { v = Relu (x)  r = Flatten (v)  y = Sigmoid (r) }""",
    "input_to_output": """(float[N,8] x) => (float[N,8] y) <int64[2] a = {-1,8}>
        { y = Reshape (x, a) }""",
    "middle_read_by_two_reshapes": """(float[N,8,2] x) => (float[N,4,4] y, float[N,2,8] z)
        <int64[2] a = {-1,16}, int64[3] b = {-1,4,4}, int64[3] c = {-1,2,8}>
        { r = Reshape (x, a)  y = Reshape (r, b)  z = Reshape (r, c) }""",
    "target_of_a_view": """(float[N,12,4,4] x) => (float[N,3,4,4,4] y)
        <int64 zero = {0}, int64[1] first = {0}, int64[1] three = {3}, int64[3] rest = {4,4,4}>
        { s = Shape (x)  n = Gather (s, zero)  u = Unsqueeze (n, first)
          t = Concat <axis = 0> (u, three, rest)  y = Reshape (x, t) }""",
    "target_with_minus_one": """(float[N,12,4,4] x) => (float[N,M,4] y)
        <int64[1] m = {-1}, int64[1] four = {4}>
        { s = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (s, m, four)
          y = Reshape (x, t) }""",
    "batch_joins_the_rows": """(float[N,12,5] x) => (float[R,5] y) <int64 twelve = {12}, int64[1] five = {5}>
        { s = Shape <start = 0, end = 1> (x)  r = Mul (s, twelve)  t = Concat <axis = 0> (r, five)
          y = Reshape (x, t) }""",
    "two_symbols_copied": """(float[N,12,T] x) => (float[N,3,4,T] y)
        <int64[2] m = {3,4}>
        { n = Shape <start = 0, end = 1> (x)  w = Shape <start = 2, end = 3> (x)
          t = Concat <axis = 0> (n, m, w)  y = Reshape (x, t) }""",
    "read_beside_other_nodes": """(float[N,8,2] x) => (float[N,16] v, float[N,8,2] y)
        <int64[2] a = {-1,16}, int64[3] b = {-1,8,2}>
        { k = Relu (x)  r = Reshape (k, a)  v = Relu (r)  s = Reshape (r, b)  y = Sigmoid (s) }""",
    "two_copied_and_one_counted": """(float[N,3,H,W] x) => (float[N,C,H] y) <int64[1] m = {-1}>
        { n = Shape <start = 0, end = 1> (x)  h = Shape <start = 2, end = 3> (x)
          t = Concat <axis = 0> (n, m, h)  y = Reshape (x, t) }""",
    "int8_data": """(int8[N,8,2] x) => (int8[N,2,8] y) <int64[2] a = {-1,16}, int64[3] b = {-1,2,8}>
        { r = Reshape (x, a)  y = Reshape (r, b) }""",
}

REFUSALS = {
    "middle_read_elsewhere": (
        """(float[N,8,2] x) => (float[N,16] v, float[N,2,8] y)
        <int64[2] a = {-1,16}, int64[3] b = {-1,2,8}>
        { r = Reshape (x, a)  v = Relu (r)  y = Reshape (r, b) }""",
        "elsewhere",
    ),
    "middle_is_output": (
        """(float[N,8,2] x) => (float[N,16] r, float[N,2,8] y)
        <int64[2] a = {-1,16}, int64[3] b = {-1,2,8}>
        { r = Reshape (x, a)  y = Reshape (r, b) }""",
        "elsewhere",
    ),
    "symbols_change_places": (
        """(float[N,3,H,W] x) => (float[A,B,C] y) <int64[1] m = {-1}>
        { n = Shape <start = 0, end = 1> (x)  h = Shape <start = 2, end = 3> (x)
          t = Concat <axis = 0> (h, n, m)  y = Reshape (x, t) }""",
        "3 dimensions of its result are only known at run time",
    ),
    "chain_with_two_unknown": (
        """(float[N,6,H] x) => (float[?,?,?] y) <int64[3] a = {0,-1,3}>
        { r = Flatten <axis = 2> (x)  s = Shape (r)  y = Reshape (r, a) }""",
        "2 dimensions of its result are only known at run time",
    ),
}

LEFT_ALONE = {
    "constant_target": """(float[N,8,2] x) => (float[N,16] y) <int64[2] a = {-1,16}>
        { y = Reshape (x, a) }""",
    "relu_between": """(float[N,8,2] x) => (float[N,2,8] y)
        <int64[2] a = {-1,16}, int64[3] b = {-1,2,8}>
        { r = Reshape (x, a)  z = Relu (r)  y = Reshape (z, b) }""",
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-reshapes", MERGES[case])
    assert ran.result.status == "verified"
    golden(ran.text)
    again = run_pass("merge-reshapes", ran.graph)
    assert again.result.status == "unchanged"


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-reshapes", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("merge-reshapes", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
