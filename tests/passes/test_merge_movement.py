"""merge-movement: channel shuffles that are halved afterwards become strided slices."""

from __future__ import annotations

import pytest
from conftest import run_pass

REWRITES = {
    "shuffle_block": """(float[1,8,4,4] x) => (float[1,4,4,4] a, float[1,4,4,4] b)
        <int64[3] s = {4,2,16}, int64[5] u = {2,-1,4,4,4}, int64 zero = {0}, int64 one = {1}>
        { r = Reshape (x, s)  t = Transpose <perm = [1,0,2]> (r)  q = Reshape (t, u)
          c = Gather <axis = 0> (q, zero)  d = Gather <axis = 0> (q, one)  a = Relu (c)  b = Sigmoid (d) }""",
    "shuffle_then_split_with_a_symbolic_batch": """(float[N,8,4,4] x) => (float[N,4,4,4] a, float[N,4,4,4] b)
        <int64[5] s = {0,4,2,4,4}, int64[4] u = {0,8,4,4}, int64[2] h = {4,4}>
        { r = Reshape (x, s)  t = Transpose <perm = [0,2,1,3,4]> (r)  q = Reshape (t, u)
          a, b = Split <axis = 1> (q, h) }""",
    "unsqueeze_transpose_gather": """(float[3,4] x) => (float[1,4] y) <int64[1] ax = {0}, int64 two = {2}>
        { u = Unsqueeze (x, ax)  t = Transpose <perm = [1,0,2]> (u)  g = Gather <axis = 0> (t, two)  y = Relu (g) }""",
}

REFUSED = {
    "only_a_part_of_each_group": """(float[1,8,4,4] x) => (float[1,8,4,2] y)
        <int64[3] s = {4,2,16}, int64[4] u = {1,8,4,4}, int64[1] lo = {0}, int64[1] hi = {2}, int64[1] ax = {3}>
        { r = Reshape (x, s)  t = Transpose <perm = [1,0,2]> (r)  q = Reshape (t, u)
          y = Slice (q, lo, hi, ax) }""",
}

LEFT = {
    "too_short_to_gain": """(float[1,8,4,4] x) => (float[1,4,16] y) <int64[3] s = {1,8,16}, int64[1] lo = {4}, int64[1] hi = {8}, int64[1] ax = {1}>
        { r = Reshape (x, s)  y = Slice (r, lo, hi, ax) }""",
    "symbolic_height": """(float[1,8,H,4] x) => (float[1,4,K,4] y)
        <int64[5] s = {0,4,2,-1,4}, int64[4] u = {0,8,-1,4}, int64[2] h = {4,4}>
        { r = Reshape (x, s)  t = Transpose <perm = [0,2,1,3,4]> (r)  q = Reshape (t, u)
          y, z = Split <axis = 1> (q, h) }""",
    "something_computed_between": """(float[1,8,4,4] x) => (float[4,4,4] a)
        <int64[3] s = {4,2,16}, int64[4] u = {2,4,4,4}, int64 zero = {0}>
        { r = Reshape (x, s)  t = Transpose <perm = [1,0,2]> (r)  e = Relu (t)  q = Reshape (e, u)
          a = Gather <axis = 0> (q, zero) }""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str, golden) -> None:
    ran = run_pass("merge-movement", REWRITES[case])
    assert ran.result.status == "verified"
    assert "Transpose" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    ran = run_pass("merge-movement", REFUSED[case])
    assert ran.result.status == "unchanged"
    assert "no slice along one axis" in ran.reasons[0]


@pytest.mark.parametrize("case", LEFT)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("merge-movement", LEFT[case])
    assert ran.result.status == "unchanged"
    assert ran.reasons == []


def test_large_tensors_are_not_tried() -> None:
    assert (
        run_pass("merge-movement", REWRITES["shuffle_block"], max_elements=100).ops.count("Gather")
        == 2
    )
