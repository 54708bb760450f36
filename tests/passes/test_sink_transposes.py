"""sink-transposes: Transposes meet and vanish across regions; where nothing is saved nothing moves."""

from __future__ import annotations

import pytest
from conftest import run_pass

TO, BACK = "<perm = [0,3,1,2]>", "<perm = [0,2,3,1]>"
CONV = "kernel_shape = [3,3], pads = [1,1,1,1]"


def around(body: str, weights: str = "") -> str:
    """NHWC nodes from h to k between two convolutions."""
    return f"""(float[N,4,6,5] x) => (float[N,4,?,?] y) <float[4,4,3,3] w, float[4,4,3,3] v{weights}>
        {{ c = Conv <{CONV}> (x, w)  h = Transpose {BACK} (c)  {body}
           t = Transpose {TO} (k)  y = Conv <{CONV}> (t, v) }}"""


CANCELS = {
    "relu": around("k = Relu (h)"),
    "bias_and_activation": around("a = Add (h, b)  k = LeakyRelu (a)", ", float[4] b"),
    "bias_on_the_left_of_full_rank": around("k = Sub (b, h)", ", float[1,1,5,4] b"),
    "scalars": around("a = Mul (h, s)  k = Clip (a, z, s)", ", float s = {6.0}, float z = {0.0}"),
    "two_branches": around("a = Sigmoid (h)  k = Mul (a, h)"),
    "slope_per_channel": around("k = PRelu (h, s)", ", float[4] s"),
    "softmax_over_channels": around("k = Softmax <axis = -1> (h)"),
    "split_and_concat": around(
        "a, b = Split <axis = 3, num_outputs = 2> (h)  d = Relu (b)  k = Concat <axis = -1> (d, a)"
    ),
    "concat_with_a_constant": """(float[1,4,3,2] x) => (float[1,5,3,2] y) <float[1,3,2,1] e>
        { h = Transpose <perm = [0,2,3,1]> (x)  k = Concat <axis = 3> (h, e)
          y = Transpose <perm = [0,3,1,2]> (k) }""",
    "slice": around(
        "k = Slice (h, s, e, a)", ", int64[2] s = {0,1}, int64[2] e = {4,5}, int64[2] a = {-2,1}"
    ),
    "slice_without_axes": around(
        "k = Slice (h, s, e)", ", int64[3] s = {0,1,2}, int64[3] e = {9,5,4}"
    ),
    "slice_with_steps": around(
        "k = Slice (h, s, e, a, p)",
        ", int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {1}, int64[1] p = {2}",
    ),
    "pad": around("k = Pad (h, p)", ", int64[8] p = {0,1,2,0,0,3,4,0}"),
    "pad_along_axes": around(
        'k = Pad <mode = "edge"> (h, p, "", a)', ", int64[4] p = {1,2,3,4}, int64[2] a = {1,2}"
    ),
    "mean_with_keepdims": around(
        "a = ReduceMean (h, r)  b = Sigmoid (a)  k = Mul (h, b)", ", int64[2] r = {1,2}"
    ),
    "mean_without_keepdims": f"""(float[N,4,6,5] x) => (float[N,4] y) <int64[2] r = {{1,2}}>
        {{ h = Transpose {BACK} (x)  a = ReduceMean <keepdims = 0> (h, r)  y = Relu (a) }}""",
    "reduce_everything": f"""(float[2,4,6,5] x) => (float y)
        {{ h = Transpose {BACK} (x)  a = ReduceMax <keepdims = 0> (h)  y = Relu (a) }}""",
    "reduce_one_axis_leaves_an_order": """(float[N,4,6,5] x) => (float[N,5,4] y) <int64[1] r = {1}>
        { h = Transpose <perm = [0,2,3,1]> (x)  a = ReduceSum <keepdims = 0> (h, r)
          b = Transpose <perm = [0,2,1]> (a)  c = Relu (b)  y = Transpose <perm = [0,2,1]> (c) }""",
    "argmax_over_channels": f"""(float[N,4,6,5] x) => (int64[N,6,5] y)
        {{ h = Transpose {BACK} (x)  y = ArgMax <axis = 3, keepdims = 0> (h) }}""",
    "squeeze": f"""(float[N,4,1,5] x) => (float[N,4,5] y) <int64[1] a = {{1}}>
        {{ h = Transpose {BACK} (x)  r = Relu (h)  s = Squeeze (r, a)
           y = Transpose <perm = [0,2,1]> (s) }}""",
    "quantized_per_tensor": around(
        "q = QuantizeLinear (h, s, z)  k = DequantizeLinear (q, s, z)",
        ", float s = {0.05}, int8 z = {3}",
    ),
    "quantized_per_channel": around(
        "q = QuantizeLinear <axis = 3> (h, s, z)  k = DequantizeLinear <axis = -1> (q, s, z)",
        ", float[4] s = {0.05, 0.1, 0.2, 0.3}, int8[4] z = {3, 0, 1, 2}",
    ),
    "cast_and_compare": around("g = Greater (h, z)  k = Cast <to = 1> (g)", ", float z = {0.1}"),
    "where": around("g = Less (h, z)  k = Where (g, h, b)", ", float[4] z, float[1,6,1,1] b"),
    "sum_of_two": f"""(float[N,4,6,5] x, float[N,4,6,5] z) => (float[N,6,5,4] y)
        {{ a = Transpose {BACK} (x)  b = Transpose {BACK} (z)  y = Add (a, b) }}""",
    "residual_network": f"""(float[N,4,6,5] x) => (float[N,4,6,5] y)
        <float[4,4,3,3] w, float[4,4,3,3] v, float[4] b>
        {{ c = Conv <{CONV}> (x, w)  h = Transpose {BACK} (c)  i = Add (h, b)  r = Relu (i)
           t = Transpose {TO} (r)  d = Conv <{CONV}> (t, v)  e = Transpose {BACK} (d)
           f = Add (e, b)  s = Add (f, r)  q = Relu (s)  u = Transpose {TO} (q)
           y = Conv <{CONV}> (u, w) }}""",
    "one_reader_outside": f"""(float[N,4,6,5] x) => (float[N,4,6,5] y, float[N,6,5,4] z)
        {{ h = Transpose {BACK} (x)  r = Relu (h)  t = Transpose {TO} (r)  y = Sigmoid (t)
           z = Einsum <equation = "nhwc->nhwc"> (r) }}""",
    "inner_result_is_output": f"""(float[N,4,6,5] x) => (float[N,4,6,5] y, float[N,6,5,4] r)
        {{ h = Transpose {BACK} (x)  r = Relu (h)  s = Sigmoid (r)  t = Transpose {TO} (s)
           y = Relu (t) }}""",
    "cancelled_one_is_output": f"""(float[N,4,6,5] x) => (float[N,4,6,5] y)
        {{ z = Relu (x)  h = Transpose {BACK} (z)  r = Sigmoid (h)  y = Transpose {TO} (r) }}""",
    "partly_merged": """(float[2,3,4,5] x) => (float[5,3,2,4] y)
        { a = Transpose <perm = [0,2,3,1]> (x)  b = Relu (a)  y = Transpose <perm = [2,3,0,1]> (b) }""",
    "three_in_a_row": """(float[2,3,4] x) => (float[4,3,2] y)
        { a = Transpose <perm = [1,2,0]> (x)  b = Transpose <perm = [1,2,0]> (a)
          y = Transpose <perm = [0,2,1]> (b) }""",
    "reversed_by_default": """(float[2,3,4] x) => (float[2,3,4] y)
        { a = Transpose (x)  b = Relu (a)  c = Transpose (b)  y = Sigmoid (c) }""",
    "tail_that_saves_nothing_stays": f"""(float[N,4,6,5] x) => (float[N,4,6,5] y, float[N,120] z)
        {{ h = Transpose {BACK} (x)  r = Relu (h)  t = Transpose {TO} (r)  y = Sigmoid (t)
           a = Exp (r)  b = Tanh (a)  z = Flatten (b) }}""",
    "constant": """(float[3,2] x) => (float[3,2] y) <float[2,3] w>
        { t = Transpose <perm = [1,0]> (w)  y = Add (x, t) }""",
    "gemm_takes_both": """(float[3,2] x, float[4,3] w, float[4] b) => (float[2,4] y)
        { s = Transpose <perm = [1,0]> (x)  t = Transpose <perm = [1,0]> (w)
          y = Gemm <alpha = 0.5> (s, t, b) }""",
    "gemm_takes_it_back": """(float[2,3] x, float[3,4] w) => (float[2,4] y)
        { t = Transpose <perm = [1,0]> (w)  y = Gemm <transB = 1> (x, t) }""",
    "matmul_is_gemm": """(float[2,3] x, float[4,3] w) => (float[2,4] y)
        { t = Transpose <perm = [1,0]> (w)  y = MatMul (x, t) }""",
    "only_moves_ones_symbolic": """(float[N,1,M] x) => (float[1,N,M] y)
        { y = Transpose <perm = [1,0,2]> (x) }""",
    "only_moves_ones": """(float[N,1,1,7] x) => (float[N,7,1,1] y)
        { y = Transpose <perm = [0,3,1,2]> (x) }""",
}

REFUSALS = {
    "as_many_are_needed": (
        f"""(float[N,4,6,5] x) => (float[N,4,6,5] y, float[N,120] z, float[N,120] v)
        {{ h = Transpose {BACK} (x)  r = Relu (h)  s = Sigmoid (r)  t = Transpose {TO} (s)
           y = Relu (t)  z = Flatten (r)  v = Flatten (s) }}""",
        "as many Transposes again",
    ),
}

LEFT_ALONE = {
    "only_one": around("k = Relu (h)")
    .replace(TO, "<perm = [0,2,3,1]>")
    .replace("(t, v)", "(t, u)")
    .replace("float[4,4,3,3] v", "float[4,6,3,3] u")
    .replace("h = Transpose <perm = [0,2,3,1]> (c)", "h = Exp (c)"),
    "output_after_relu": f"""(float[N,4,6,5] x) => (float[N,6,5,4] y)
        {{ h = Transpose {BACK} (x)  y = Relu (h) }}""",
    "reshape_between": f"""(float[2,4,6,5] x) => (float[2,4,6,5] y) <int64[4] s = {{2,6,5,4}}>
        {{ h = Transpose {BACK} (x)  r = Reshape (h, s)  y = Transpose {TO} (r) }}""",
    "operand_of_another_rank": f"""(float[N,4,6,5] x, float[5,4] z) => (float[N,4,6,5] y)
        {{ h = Transpose {BACK} (x)  r = Add (h, z)  y = Transpose {TO} (r) }}""",
    "computed_bounds": f"""(float[N,4,6,5] x, int64[1] s) => (float[?,?,?,?] y)
        <int64[1] e = {{99}}, int64[1] a = {{1}}>
        {{ h = Transpose {BACK} (x)  r = Slice (h, s, e, a)  y = Transpose {TO} (r) }}""",
    "matmul_of_rank_3": """(float[2,3,4] x, float[2,5,4] w) => (float[2,3,5] y)
        { t = Transpose <perm = [0,2,1]> (w)  y = MatMul (x, t) }""",
    "two_that_differ": """(float[2,2,2] x, float[2,2,2] z) => (float[2,2,2] y)
        { a = Transpose <perm = [0,2,1]> (x)  b = Transpose <perm = [1,0,2]> (z)  y = Add (a, b) }""",
    "ones_and_two_unknown": """(float[1,N,M] x) => (float[N,M,1] y)
        { y = Transpose <perm = [1,2,0]> (x) }""",
}


@pytest.mark.parametrize("case", CANCELS)
def test_cancels(case: str, golden) -> None:
    ran = run_pass("sink-transposes", CANCELS[case])
    assert ran.result.status == "verified"
    golden(ran.text)
    again = run_pass("sink-transposes", ran.graph)
    assert again.result.status == "unchanged"


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("sink-transposes", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("sink-transposes", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert ran.reasons == []
