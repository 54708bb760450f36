"""cancel-split-concat: cuts and seams that undo each other go, all others stay."""

from __future__ import annotations

import pytest
from conftest import run_pass

BOUNDS = (
    "int64[1] o = {0}, int64[1] i = {1}, int64[1] p = {2}, int64[1] q = {5}, int64[1] end = {99}"
)

CANCELS = {
    "split_then_concat": """(float[N,6] x) => (float[N,6] y) <int64[3] s = {1,2,3}>
        { a, b, c = Split <axis = 1> (x, s)  d = Concat <axis = -1> (a, b, c)  y = Relu (d) }""",
    "split_in_equal_parts": """(float[N,6] x) => (float[N,6] y)
        { a, b, c = Split <axis = 1, num_outputs = 3> (x)  d = Concat <axis = 1> (a, b, c)
          y = Relu (d) }""",
    "beside_others": """(float[N,6] x, float[N,2] z) => (float[N,10] y)
        { a, b = Split <axis = 1, num_outputs = 2> (x)  y = Concat <axis = 1> (z, a, b, z) }""",
    "piece_read_elsewhere": """(float[N,6] x) => (float[N,6] y, float[N,3] v)
        { a, b = Split <axis = 1, num_outputs = 2> (x)  d = Concat <axis = 1> (a, b)
          y = Relu (d)  v = Relu (a) }""",
    "concat_then_split": """(float[N,1] a, float[N,2] b, float[N,3] c) => (float[N,1] d, float[N,2] e, float[N,3] f)
        <int64[3] s = {1,2,3}>
        { x = Concat <axis = 1> (a, b, c)  p, q, r = Split <axis = 1> (x, s)
          d = Relu (p)  e = Relu (q)  f = Relu (r) }""",
    "concat_read_elsewhere_too": """(float[N,2] a, float[N,2] b) => (float[N,2] d, float[N,2] e, float[N,4] f)
        { x = Concat <axis = 1> (a, b)  p, q = Split <axis = 1, num_outputs = 2> (x)
          d = Relu (p)  e = Relu (q)  f = Relu (x) }""",
    "pieces_are_outputs": """(float[N,2] a, float[N,2] b) => (float[N,2] p, float[N,2] q)
        { r = Relu (a)  x = Concat <axis = 1> (r, b)
          p, q = Split <axis = 1, num_outputs = 2> (x) }""",
    "slices_rejoined": f"""(float[N,6] x) => (float[N,4] y) <{BOUNDS}>
        {{ a = Slice (x, i, p, i)  b = Slice (x, p, q, i)  y = Concat <axis = 1> (a, b) }}""",
    "slices_of_everything": f"""(float[N,6] x) => (float[N,6] y) <{BOUNDS}>
        {{ a = Slice (x, o, p, i)  b = Slice (x, p, end, i)  c = Concat <axis = 1> (a, b)
           y = Relu (c) }}""",
    "slices_are_a_split": f"""(float[N,6] x) => (float[N,2] d, float[N,3] e, float[N,1] f) <{BOUNDS}>
        {{ b = Slice (x, p, q, i)  a = Slice (x, o, p, i)  c = Slice (x, q, end, i)
           d = Relu (a)  e = Exp (b)  f = Tanh (c) }}""",
    "one_piece_read": """(float[N,6] x) => (float[N,2] y) <int64[3] s = {1,2,3}>
        { a, b, c = Split <axis = 1> (x, s)  y = Relu (b) }""",
}

REFUSALS = {
    "seams_elsewhere": (
        """(float[N,1] a, float[N,3] b) => (float[N,2] d, float[N,2] e)
        { x = Concat <axis = 1> (a, b)  p, q = Split <axis = 1, num_outputs = 2> (x)
          d = Relu (p)  e = Relu (q) }""",
        "seams",
    ),
}

LEFT_ALONE = {
    "other_order": """(float[N,6] x) => (float[N,6] y)
        { a, b = Split <axis = 1, num_outputs = 2> (x)  y = Concat <axis = 1> (b, a) }""",
    "one_missing": """(float[N,6] x) => (float[N,4] y, float[N,2] v)
        { a, b, c = Split <axis = 1, num_outputs = 3> (x)  y = Concat <axis = 1> (a, b)
          v = Relu (c) }""",
    "skips_a_piece": """(float[N,6] x) => (float[N,4] y, float[N,2] v)
        { a, b, c = Split <axis = 1, num_outputs = 3> (x)  y = Concat <axis = 1> (a, c)
          v = Relu (b) }""",
    "other_axis": """(float[2,2] x) => (float[4,1] y)
        { a, b = Split <axis = 1, num_outputs = 2> (x)  y = Concat <axis = 0> (a, b) }""",
    "slices_with_steps": """(float[N,6] x) => (float[N,6] y)
        <int64[1] o = {0}, int64[1] i = {1}, int64[1] p = {2}, int64[1] e = {6}>
        { a = Slice (x, o, e, i, p)  b = Slice (x, i, e, i, p)  y = Concat <axis = 1> (a, b) }""",
    "slices_with_a_gap": f"""(float[N,6] x) => (float[N,2] d, float[N,1] e) <{BOUNDS}>
        {{ a = Slice (x, o, p, i)  b = Slice (x, q, end, i)  d = Relu (a)  e = Relu (b) }}""",
    "slices_that_overlap": f"""(float[N,6] x) => (float[N,5] d, float[N,4] e) <{BOUNDS}>
        {{ a = Slice (x, o, q, i)  b = Slice (x, p, end, i)  d = Relu (a)  e = Relu (b) }}""",
    "slice_read_elsewhere": f"""(float[N,6] x) => (float[N,4] y, float[N,1] v) <{BOUNDS}>
        {{ a = Slice (x, i, p, i)  b = Slice (x, p, q, i)  y = Concat <axis = 1> (a, b)
           v = Relu (a) }}""",
    "unknown_size": f"""(float[N,M] x) => (float[N,?] d, float[N,?] e) <{BOUNDS}>
        {{ a = Slice (x, o, p, i)  b = Slice (x, p, end, i)  d = Relu (a)  e = Relu (b) }}""",
}


@pytest.mark.parametrize("case", CANCELS)
def test_cancels(case: str, golden) -> None:
    ran = run_pass("cancel-split-concat", CANCELS[case])
    assert ran.result.status == "verified"
    golden(ran.text)
    assert run_pass("cancel-split-concat", ran.graph).result.status == "unchanged"


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("cancel-split-concat", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("cancel-split-concat", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert ran.reasons == []
