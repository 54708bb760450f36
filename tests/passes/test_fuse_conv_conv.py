"""fuse-conv-conv: a 1x1 convolution goes into the one before it, where that saves work."""

from __future__ import annotations

import pytest
from conftest import run_pass

FOLDS = {
    "bottleneck_out": """(float[N,6,8,8] x) => (float[N,4,8,8] y) <float[32,6,3,3] w, float[32] b, float[4,32,1,1] v, float[4] c>
        { m = Conv <pads = [1,1,1,1]> (x, w, b)  y = Conv (m, v, c) }""",
    "two_pointwise": """(float[1,6,8,8] x) => (float[1,6,8,8] y) <float[16,6,1,1] w, float[6,16,1,1] v>
        { m = Conv (x, w)  y = Conv (m, v) }""",
    "strided": """(float[1,6,8,8] x) => (float[1,4,4,4] y) <float[16,6,2,2] w, float[4,16,1,1] v>
        { m = Conv <strides = [2,2]> (x, w)  y = Conv (m, v) }""",
}

REFUSALS = {
    "more_expensive": (
        """(float[1,6,8,8] x) => (float[1,32,6,6] y) <float[4,6,3,3] w, float[32,4,1,1] v>
        { m = Conv (x, w)  y = Conv (m, v) }""",
        "cost more",
    ),
    "middle_read_twice": (
        """(float[1,6,8,8] x) => (float[1,4,8,8] y, float[1,16,8,8] m) <float[16,6,1,1] w, float[4,16,1,1] v>
        { m = Conv (x, w)  y = Conv (m, v) }""",
        "second reader",
    ),
    "first_is_depthwise": (
        """(float[1,6,8,8] x) => (float[1,4,6,6] y) <float[6,1,3,3] w, float[4,6,1,1] v>
        { m = Conv <group = 6> (x, w)  y = Conv (m, v) }""",
        "grouped",
    ),
    "shared_weight": (
        """(float[1,6,8,8] x) => (float[1,6,8,8] y) <float[6,6,1,1] w>
        { m = Conv (x, w)  y = Conv (m, w) }""",
        "shared weight",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fuse-conv-conv", FOLDS[case])
    assert ran.result.status == "verified"
    assert ran.ops == ["Conv"]
    assert ran.result.after.macs < ran.result.before.macs
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-conv-conv", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize(
    "second",
    ["Conv <strides = [2,2]> (m, v)", "Conv <pads = [1,1,1,1]> (m, v)", "Conv <group = 2> (m, u)"],
)
def test_only_a_plain_pointwise_second_is_a_candidate(second: str) -> None:
    ran = run_pass(
        "fuse-conv-conv",
        f"""(float[1,6,8,8] x) => (float[1,4,H,W] y) <float[16,6,1,1] w, float[4,16,1,1] v, float[4,8,1,1] u>
        {{ m = Conv (x, w)  y = {second} }}""",
    )
    assert ran.result.status == "unchanged"
    assert ran.reasons == []
