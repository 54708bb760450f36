"""fuse-affine-conv: what scales a convolution's input goes into its weights, where that is exact."""

from __future__ import annotations

import pytest
from conftest import run_pass

BN = "float[6] gamma, float[6] beta, float[6] mean, float[6] var"

FOLDS = {
    "gemm_beta_zero": """(float[N,5] x) => (float[N,8] y) <float[5,8] w, float[8] b, float[5] s>
        { c = Add (x, s)  y = Gemm <alpha = 0.5, beta = 0.0> (c, w, b) }""",
    "bn_before_unpadded_conv": f"""(float[N,6,8,8] x) => (float[N,8,6,6] y) <float[8,6,3,3] w, float[8] b, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv (n, w, b) }}""",
    "bn_before_grouped_conv": f"""(float[1,6,8,8] x) => (float[1,8,6,6] y) <float[8,3,3,3] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv <group = 2> (n, w) }}""",
    "bn_before_depthwise_conv": f"""(float[1,6,8,8] x) => (float[1,12,6,6] y) <float[12,1,3,3] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv <group = 6> (n, w) }}""",
    "scale_before_padded_conv": """(float[1,6,8,8] x) => (float[1,8,8,8] y) <float[8,6,3,3] w, float[6,1,1] s>
        { n = Mul (x, s)  y = Conv <pads = [1,1,1,1]> (n, w) }""",
    "input_normalisation": """(float[1,3,8,8] x) => (float[1,8,4,4] y) <float[8,3,2,2] w, float[1,3,1,1] mean, float[3,1,1] var_std>
        { c = Sub (x, mean)  n = Div (c, var_std)  y = Conv <strides = [2,2]> (n, w) }""",
    "before_gemm": """(float[N,5] x) => (float[N,8] y) <float[8,5] w, float[8] b, float[5] s, float[5] t>
        { m = Mul (x, s)  n = Add (m, t)  y = Gemm <transB = 1, alpha = 0.5> (n, w, b) }""",
    "before_matmul": """(float[N,5] x) => (float[N,8] y) <float[5,8] w, float[5] s, float[5] t>
        { m = Mul (x, s)  n = Sub (m, t)  y = MatMul (n, w) }""",
}

REFUSALS = {
    "shift_before_padded_conv": (
        f"""(float[1,6,8,8] x) => (float[1,8,8,8] y) <float[8,6,3,3] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv <pads = [1,1,1,1]> (n, w) }}""",
        "pads with zeros",
    ),
    "same_padding": (
        f"""(float[1,6,8,8] x) => (float[1,8,8,8] y) <float[8,6,3,3] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv <auto_pad = "SAME_UPPER"> (n, w) }}""",
        "pads with zeros",
    ),
    "before_conv_transpose": (
        f"""(float[1,6,4,4] x) => (float[1,8,6,6] y) <float[6,8,3,3] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = ConvTranspose (n, w) }}""",
        "fewer taps",
    ),
    "shared_weight": (
        f"""(float[1,6,4,4] x) => (float[1,8,4,4] y, float[1,8,4,4] z) <float[8,6,1,1] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv (n, w)  r = Relu (x)  z = Conv (r, w) }}""",
        "shared weight",
    ),
    "over_positions": (
        """(float[1,6,4,4] x) => (float[1,8,4,4] y) <float[8,6,1,1] w, float[6,4,4] t>
        { n = Add (x, t)  y = Conv (n, w) }""",
        "not one value per channel",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fuse-affine-conv", FOLDS[case])
    assert ran.result.status == "verified"
    assert len(ran.ops) == 1
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-affine-conv", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_a_second_reader_is_no_candidate() -> None:
    ran = run_pass(
        "fuse-affine-conv",
        f"""(float[1,6,4,4] x) => (float[1,8,4,4] y, float[1,6,4,4] n) <float[8,6,1,1] w, {BN}>
        {{ n = BatchNormalization (x, gamma, beta, mean, var)  y = Conv (n, w) }}""",
    )
    assert ran.result.status == "unchanged"
