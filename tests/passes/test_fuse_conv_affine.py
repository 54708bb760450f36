"""fuse-conv-affine: constants per channel fold into what feeds them."""

from __future__ import annotations

import pytest
from conftest import run_pass

FOLDS = {
    "gemm_beta_zero": """(float[N,5] x) => (float[N,8] y) <float[5,8] w, float[8] b, float[8] s>
        { c = Gemm <beta = 0.0> (x, w, b)  y = Add (c, s) }""",
    "mul_then_add": """(float[N,3,8,8] x) => (float[N,8,6,6] y) <float[8,3,3,3] w, float[8,1,1] s, float[1,8,1,1] t>
        { c = Conv (x, w)  d = Mul (c, s)  y = Add (t, d) }""",
    "sub_then_div": """(float[1,3,8,8] x) => (float[1,8,6,6] y) <float[8,3,3,3] w, float[8] b, float[8,1,1] var_s, float t>
        { c = Conv (x, w, b)  d = Sub (c, t)  y = Div (d, var_s) }""",
    "subtracted_from": """(float[1,3,8,8] x) => (float[1,8,6,6] y) <float[8,3,3,3] w, float[8,1,1] t>
        { c = Conv (x, w)  y = Sub (t, c) }""",
    "transposed_grouped": """(float[1,6,4,4] x) => (float[1,8,6,6] y) <float[6,4,3,3] w, float[8,1,1] s>
        { c = ConvTranspose <group = 2> (x, w)  y = Mul (c, s) }""",
    "matmul_add": """(float[N,5] x) => (float[N,8] y) <float[5,8] w, float[8] b>
        { c = MatMul (x, w)  y = Add (c, b) }""",
    "gemm_mul": """(float[N,5] x) => (float[N,8] y) <float[8,5] w, float[8] b, float[1,8] s>
        { c = Gemm <transB = 1, beta = 0.5> (x, w, b)  y = Mul (c, s) }""",
    "scaled_tokens": """(float[2,7,5] x) => (float[2,7,8] y) <float[5,8] w, float[8] s>
        { c = MatMul (x, w)  y = Mul (c, s) }""",
}

REFUSALS = {
    "bias_over_positions": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8,8,8] t>
        { c = Conv (x, w)  y = Add (c, t) }""",
        "not one value per channel",
    ),
    "constant_along_the_width": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8] t>
        { c = Conv (x, w)  y = Add (c, t) }""",
        "not one value per channel",
    ),
    "constant_enlarges": (
        """(float[1,3,8,8] x) => (float[2,8,8,8] y) <float[8,3,1,1] w, float[2,8,1,1] t>
        { c = Conv (x, w)  y = Mul (c, t) }""",
        "enlarges",
    ),
    "read_twice": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8,1,1] s>
        { c = Conv (x, w)  d = Mul (c, s)  y = Add (c, d) }""",
        "second reader",
    ),
    "divides_by_it": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8,1,1] s>
        { c = Conv (x, w)  y = Div (s, c) }""",
        "divides by the result",
    ),
    "tokens_with_bias": (
        """(float[2,7,5] x) => (float[2,7,8] y) <float[5,8] w, float[8] b>
        { c = MatMul (x, w)  y = Add (c, b) }""",
        "more than two dimensions",
    ),
    "bias_per_row": (
        """(float[4,5] x) => (float[4,8] y) <float[5,8] w, float[4,1] b, float[8] s>
        { c = Gemm (x, w, b)  y = Mul (c, s) }""",
        "differs from row to row",
    ),
    "shared_weight": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8,1,1] s>
        { c = Conv (x, w)  d = Mul (c, s)  e = Relu (x)  f = Conv (e, w)  y = Add (d, f) }""",
        "shared weight",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fuse-conv-affine", FOLDS[case])
    assert ran.result.status == "verified"
    assert len(ran.ops) == 1
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-conv-affine", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_adding_two_convolutions_is_no_candidate() -> None:
    ran = run_pass(
        "fuse-conv-affine",
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float[8,3,1,1] v>
        { c = Conv (x, w)  d = Conv (x, v)  y = Add (c, d) }""",
    )
    assert ran.result.status == "unchanged"
    assert ran.reasons == []
