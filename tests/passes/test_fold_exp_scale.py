"""fold-exp-scale: anchors and strides go into the bias before the exponential, or stay with a reason."""

from __future__ import annotations

import pytest
from conftest import run_pass

CONV = "float[6,3,1,1] w, float[6] b"
ANCHORS = "float[1,2,1,1,2] a = {1.25, 1.625, 30.0, 0.5}"
HEAD = """c = Conv (x, w, b)  r = Reshape (c, to)  t = Transpose <perm = [0, 1, 3, 4, 2]> (r)"""
TO = "int64[5] to = {0, 2, 3, 4, 4}"

FOLDS = {
    "yolo_head": f"""(float[N,3,4,4] x) => (float[N,2,4,4,2] y, float[N,2,4,4,1] z) <{CONV}, {TO}, {ANCHORS}, int64[2] s = {{2, 1}}>
        {{ {HEAD}  p, z = Split <axis = 4> (t, s)  e = Exp (p)  y = Mul (e, a) }}""",
    "slices_that_do_not_meet": f"""(float[2,3,4,4] x) => (float[2,2,4,4,2] y, float[2,2,4,4,1] z) <{CONV}, {TO}, {ANCHORS}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] far = {{9223372036854775807}}, int64[1] axis = {{4}}>
        {{ {HEAD}  p = Slice (t, zero, two, axis)  z = Slice (t, two, far, axis)  e = Exp (p)  y = Mul (a, e) }}""",
    "backwards": f"""(float[1,3,4,4] x) => (float[1,2,4,4] y) <{CONV}, float[2,1,1] a = {{2.0, 3.0}}, int64[1] one = {{1}}, int64[1] start = {{-6}}, int64[1] from = {{1}}, int64[1] to = {{-9223372036854775807}}, int64[1] back = {{-1}}>
        {{ c = Conv (x, w, b)  p = Slice (c, from, to, one, back)  e = Exp (p)  y = Mul (e, a) }}""",
    "a_stride_per_scale": """(float[N,3,4,4] x) => (float[N,6,20] y) <float[6,3,1,1] w, float[6,3,1,1] v, float[6] b, int64[3] to = {0, 6, -1}, int64[2] k, float[1,1,20] stride = {8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 8., 16., 16., 16., 16.}>
        { p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  c = Conv (x, w, b)  d = Conv (p, v)
          r = Reshape (c, to)  s = Reshape (d, to)  m = Concat <axis = 2> (r, s)  e = Exp (m)  y = Mul (e, stride) }""",
    "transposed_conv_and_scalar": """(float[1,3,4,4] x) => (float[1,64,4] y) <float[3,4,2,2] w, float a = {0.25}, int64[3] to = {1, 4, 64}>
        { c = ConvTranspose <strides = [2, 2]> (x, w)  r = Reshape (c, to)  t = Transpose <perm = [0, 2, 1]> (r)  e = Exp (t)  y = Mul (e, a) }""",
    "a_bias_another_reads": """(float[1,3,4,4] x) => (float[1,6,4,4] y, float[1,6,4,4] z) <float[6,3,1,1] w, float[6,3,1,1] v, float[6] b, float a = {4.0}>
        { c = Conv (x, w, b)  z = Conv (x, v, b)  e = Exp (c)  y = Mul (e, a) }""",
}

REFUSALS = {
    "second_reader_of_exp": (
        """(float[1,3,4,4] x) => (float[1,6,4,4] y) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w)  e = Exp (c)  m = Mul (e, a)  y = Add (m, e) }""",
        "second reader",
    ),
    "second_reader_of_the_channels": (
        """(float[1,3,4,4] x) => (float[1,6,4,4] y, float[1,2,4,4] z) <float[6,3,1,1] w, float a = {4.0}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] one = {1}>
        { c = Conv (x, w)  s = Slice (c, zero, two, one)  z = Sigmoid (s)  e = Exp (c)  y = Mul (e, a) }""",
        "Sigmoid",
    ),
    "channels_are_an_output": (
        """(float[1,3,4,4] x) => (float[1,6,4,4] y, float[1,6,4,4] c) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w)  e = Exp (c)  y = Mul (e, a) }""",
        "an output of the model",
    ),
    "not_positive": (
        """(float[1,3,4,4] x) => (float[1,2,4,4] y) <float[2,3,1,1] w, float[2,1,1] a = {4.0, 0.0}>
        { c = Conv (x, w)  e = Exp (c)  y = Mul (e, a) }""",
        "positive",
    ),
    "a_value_per_position": (
        """(float[1,3,1,2] x) => (float[1,6,1,2] y) <float[6,3,1,1] w, float[1,2] a = {4.0, 5.0}>
        { c = Conv (x, w)  e = Exp (c)  y = Mul (e, a) }""",
        "not one value per channel",
    ),
    "an_activation_between": (
        """(float[1,3,4,4] x) => (float[1,6,4,4] y) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w)  r = Relu (c)  e = Exp (r)  y = Mul (e, a) }""",
        "straight from convolutions",
    ),
    "half_of_it_elsewhere": (
        """(float[1,3,4,4] x) => (float[1,9,4,4] y) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w)  m = Concat <axis = 1> (c, x)  e = Exp (m)  y = Mul (e, a) }""",
        "straight from convolutions",
    ),
    "computed_bias": (
        """(float[1,3,4,4] x, float[6] b) => (float[1,6,4,4] y) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w, b)  e = Exp (c)  y = Mul (e, a) }""",
        "computed at run time",
    ),
    "enlarging": (
        """(float[1,3,4,4] x) => (float[2,6,4,4] y) <float[6,3,1,1] w, float[2,1,1,1] a = {4.0, 4.0}>
        { c = Conv (x, w)  e = Exp (c)  y = Mul (e, a) }""",
        "enlarges",
    ),
    "half_precision": (
        """(float16[1,3,4,4] x) => (float16[1,6,4,4] y) <float16[6,3,1,1] w, float16[1] a>
        { c = Conv (x, w)  e = Exp (c)  y = Mul (e, a) }""",
        "coarsely",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fold-exp-scale", FOLDS[case])
    assert ran.result.status == "verified"
    assert "Mul" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fold-exp-scale", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_a_product_of_something_else_is_no_candidate() -> None:
    ran = run_pass(
        "fold-exp-scale",
        """(float[1,3,4,4] x) => (float[1,6,4,4] y) <float[6,3,1,1] w, float a = {4.0}>
        { c = Conv (x, w)  e = Sigmoid (c)  y = Mul (e, a) }""",
    )
    assert (ran.result.status, ran.reasons) == ("unchanged", [])
