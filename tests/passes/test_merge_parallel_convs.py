"""merge-parallel-convs: RepVGG's branches become one convolution."""

from __future__ import annotations

import pytest
from conftest import run_pass

BN = "float[8] gamma, float[8] beta, float[8] mean, float[8] var"

MERGES = {
    "three_and_one": """(float[N,6,9,9] x) => (float[N,8,9,9] y) <float[8,6,3,3] w, float[8] b, float[8,6,1,1] v, float[8] c>
        { p = Conv <pads = [1,1,1,1]> (x, w, b)  q = Conv (x, v, c)  y = Add (p, q) }""",
    "repvgg_block": f"""(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,8,3,3] w, float[8,8,1,1] v, float[8] c, {BN}>
        {{ p = Conv <pads = [1,1,1,1]> (x, w)  q = Conv (x, v, c)  r = BatchNormalization (x, gamma, beta, mean, var)
           s = Add (p, q)  y = Add (s, r) }}""",
    "repvgg_stride_2": """(float[1,8,9,9] x) => (float[1,8,5,5] y) <float[8,8,3,3] w, float[8,8,1,1] v>
        { p = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)  q = Conv <strides = [2,2]> (x, v)  y = Add (p, q) }""",
    "identity": """(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,8,3,3] w>
        { p = Conv <pads = [1,1,1,1]> (x, w)  y = Add (x, p) }""",
    "grouped_identity": """(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,2,3,3] w>
        { p = Conv <pads = [1,1,1,1], group = 4> (x, w)  y = Add (p, x) }""",
    "depthwise_five_and_three": """(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,1,5,5] w, float[8,1,3,3] v>
        { p = Conv <pads = [2,2,2,2], group = 8> (x, w)  q = Conv <pads = [1,1,1,1], group = 8> (x, v)  y = Add (q, p) }""",
    "dilated": """(float[1,6,9,9] x) => (float[1,8,9,9] y) <float[8,6,3,3] w, float[8,6,1,1] v>
        { p = Conv <pads = [2,2,2,2], dilations = [2,2]> (x, w)
          q = Conv <dilations = [2,2]> (x, v)  y = Add (p, q) }""",
}

REFUSALS = {
    "other_stride": (
        """(float[1,6,1,1] x) => (float[1,8,1,1] y) <float[8,6,1,1] w, float[8,6,1,1] v>
        { p = Conv (x, w)  q = Conv <strides = [2,2]> (x, v)  y = Add (p, q) }""",
        "differ in strides",
    ),
    "off_centre": (
        """(float[1,6,9,9] x) => (float[1,8,9,9] y) <float[8,6,3,3] w, float[8,6,2,2] v>
        { p = Conv <pads = [0,0,2,2]> (x, w)  q = Conv <pads = [1,1,0,0]> (x, v)  y = Add (p, q) }""",
        "same centre",
    ),
    "branch_is_read_elsewhere": (
        """(float[1,6,9,9] x) => (float[1,8,9,9] y, float[1,8,9,9] z) <float[8,6,1,1] w, float[8,6,1,1] v>
        { p = Conv (x, w)  q = Conv (x, v)  y = Add (p, q)  z = Relu (q) }""",
        "second reader",
    ),
    "strided_identity": (
        """(float[1,8,1,1] x) => (float[1,8,1,1] y) <float[8,8,3,3] w>
        { p = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)  y = Add (p, x) }""",
        "does not keep positions",
    ),
    "broadcast_identity": (
        """(float[1,1,9,9] x) => (float[1,8,9,9] y) <float[8,1,3,3] w>
        { p = Conv <pads = [1,1,1,1]> (x, w)  y = Add (p, x) }""",
        "as many channels",
    ),
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-parallel-convs", MERGES[case])
    assert ran.result.status == "verified"
    assert ran.ops == ["Conv"]
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-parallel-convs", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_a_residual_over_an_activation_is_no_candidate() -> None:
    ran = run_pass(
        "merge-parallel-convs",
        """(float[1,8,9,9] x) => (float[1,8,9,9] y) <float[8,8,3,3] w>
        { r = Relu (x)  p = Conv <pads = [1,1,1,1]> (r, w)  y = Add (p, x) }""",
    )
    assert ran.ops == ["Relu", "Conv", "Add"]
    assert ran.reasons == []
