"""recompose-space-to-depth: slices that tile an image become one operator, others stay."""

from __future__ import annotations

import pytest
from conftest import run_pass

BOUNDS = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
    int64[2] hw = {2, 3}, int64[2] steps = {2, 2}, int64[1] end = {9223372036854775807},
    int64[2] ends = {2147483647, 2147483647}, int64[2] o00 = {0, 0}, int64[2] o10 = {1, 0},
    int64[2] o01 = {0, 1}, int64[2] o11 = {1, 1}"""


def phase(name: str, offset: str) -> str:
    return f"{name} = Slice (x, {offset}, ends, hw, steps)  "


def chained(name: str, row: str, column: str) -> str:
    return (
        f"{name}r = Slice (x, {row}, end, two, two)  "
        f"{name} = Slice ({name}r, {column}, end, three, two)  "
    )


ALL = phase("a", "o00") + phase("b", "o10") + phase("c", "o01") + phase("d", "o11")
SHAPES = "(float[1,3,8,6] x) => (float[1,12,4,3] y)"

REWRITES = {
    "own_order": f"{SHAPES} <{BOUNDS}> {{ {ALL} y = Concat <axis = 1> (a, c, b, d) }}",
    "other_order_gathered": f"""(float[1,2,8,6] x) => (float[1,8,4,3] y) <{BOUNDS}>
        {{ {ALL} y = Concat <axis = -3> (a, b, c, d) }}""",
    "other_order_before_conv": f"""(float[N,3,8,6] x) => (float[N,5,4,3] y)
        <{BOUNDS}, float[5,12,3,3] w>
        {{ {ALL} f = Concat <axis = 1> (a, b, c, d)  y = Conv <pads = [1,1,1,1]> (f, w) }}""",
    "cyclic_order_before_conv": f"""(float[N,3,8,6] x) => (float[N,5,4,3] y)
        <{BOUNDS}, float[5,12,1,1] w>
        {{ {ALL} f = Concat <axis = 1> (a, b, d, c)  y = Conv (f, w) }}""",
    "chained_slices": f"""{SHAPES} <{BOUNDS}>
        {{ {chained("a", "zero", "zero")} {chained("b", "zero", "one")}
           {chained("c", "one", "zero")} {chained("d", "one", "one")}
           y = Concat <axis = 1> (a, b, c, d) }}""",
    "symbolic_size": f"""(float[N,3,H,W] x) => (float[N,12,h,w] y) <{BOUNDS}>
        {{ {ALL} y = Concat <axis = 1> (a, c, b, d) }}""",
    "exact_ends": f"""{SHAPES} <{BOUNDS}, int64[2] last = {{7, 5}}>
        {{ a = Slice (x, o00, last, hw, steps) {phase("b", "o10")} {phase("c", "o01")}
           {phase("d", "o11")} y = Concat <axis = 1> (a, c, b, d) }}""",
    "before_grouped_conv": f"""{SHAPES} <{BOUNDS}, float[12,1,1,1] w>
        {{ {ALL} f = Concat <axis = 1> (a, b, c, d)  y = Conv <group = 12> (f, w) }}""",
}

REFUSALS = {
    "slice_read_elsewhere": (
        f"""(float[1,3,8,6] x) => (float[1,12,4,3] y, float[1,3,4,3] z) <{BOUNDS}>
        {{ {ALL} y = Concat <axis = 1> (a, c, b, d)  z = Relu (b) }}""",
        "read elsewhere",
    ),
    "same_phase_twice": (
        f"{SHAPES} <{BOUNDS}> {{ {ALL} y = Concat <axis = 1> (a, c, b, b) }}",
        "not the 2 x 2 phases",
    ),
    "cut_short": (
        f"""(float[1,3,8,6] x) => (float[1,12,3,3] y)
        <{BOUNDS}, int64[2] short = {{6, 6}}>
        {{ a = Slice (x, o00, short, hw, steps)  b = Slice (x, o10, short, hw, steps)
           c = Slice (x, o01, short, hw, steps)  d = Slice (x, o11, short, hw, steps)
           y = Concat <axis = 1> (a, b, c, d) }}""",
        "not the 2 x 2 phases",
    ),
    "stacked_on_the_batch": (
        f"""(float[1,3,8,6] x) => (float[4,3,4,3] y) <{BOUNDS}>
        {{ {ALL} y = Concat <axis = 0> (a, c, b, d) }}""",
        "not stacked on the channels",
    ),
}

LEFT_ALONE = {
    "two_sources": f"""(float[1,3,8,6] x, float[1,3,8,6] z) => (float[1,12,4,3] y) <{BOUNDS}>
        {{ {ALL} e = Slice (z, o11, ends, hw, steps)  y = Concat <axis = 1> (a, c, b, e) }}""",
    "computed_bounds": f"""(float[1,3,8,6] x, int64[2] s) => (float[1,12,4,3] y) <{BOUNDS}>
        {{ {ALL} z = Mul (s, o00)
           e = Slice (x, z, ends, hw, steps)  y = Concat <axis = 1> (a, c, b, e) }}""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_recomposes(case: str, golden) -> None:
    ran = run_pass("recompose-space-to-depth", REWRITES[case])
    assert ran.result.status == "verified"
    assert "Slice" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("recompose-space-to-depth", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("recompose-space-to-depth", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons
