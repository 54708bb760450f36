"""merge-sibling-convs: narrow convolutions of one tensor become one and a Split."""

from __future__ import annotations

import pytest
from conftest import run_pass

MERGES = {
    "two_heads": """(float[N,6,8,8] x) => (float[N,4,8,8] y, float[N,2,8,8] z) <float[4,6,1,1] w, float[2,6,1,1] v, float[2] c>
        { y = Conv (x, w)  z = Conv (x, v, c) }""",
    "one_is_too_wide": """(float[1,6,8,8] x) => (float[1,4,8,8] y, float[1,2,8,8] z, float[1,40,8,8] u)
        <float[4,6,3,3] w, float[2,6,3,3] v, float[40,6,3,3] t>
        { y = Conv <pads = [1,1,1,1]> (x, w)  z = Conv <pads = [1,1,1,1]> (x, v)  u = Conv <pads = [1,1,1,1]> (x, t) }""",
}

LEFT = {
    "other_kernel": """(float[1,6,8,8] x) => (float[1,4,8,8] y, float[1,2,6,6] z) <float[4,6,1,1] w, float[2,6,3,3] v>
        { y = Conv (x, w)  z = Conv (x, v) }""",
    "other_padding": """(float[1,6,8,8] x) => (float[1,4,10,10] y, float[1,2,8,8] z) <float[4,6,1,1] w, float[2,6,1,1] v>
        { y = Conv <pads = [1,1,1,1]> (x, w)  z = Conv (x, v) }""",
    "grouped": """(float[1,6,8,8] x) => (float[1,4,8,8] y, float[1,2,8,8] z) <float[4,3,1,1] w, float[2,3,1,1] v>
        { y = Conv <group = 2> (x, w)  z = Conv <group = 2> (x, v) }""",
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-sibling-convs", MERGES[case])
    assert ran.result.status == "verified"
    assert ran.ops.count("Split") == 1
    golden(ran.text)


@pytest.mark.parametrize("case", LEFT)
def test_leaves_strangers_alone(case: str) -> None:
    assert run_pass("merge-sibling-convs", LEFT[case]).result.status == "unchanged"


def test_refuses_wide_siblings_and_the_limit_is_an_option() -> None:
    text = """(float[1,6,8,8] x) => (float[1,32,8,8] y, float[1,32,8,8] z) <float[32,6,1,1] w, float[32,6,1,1] v>
        { y = Conv (x, w)  z = Conv (x, v) }"""
    assert "32 channels" in run_pass("merge-sibling-convs", text).reasons[0]
    assert run_pass("merge-sibling-convs", text, max_channels=32).ops == ["Conv", "Split"]
