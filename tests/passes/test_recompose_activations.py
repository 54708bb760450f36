"""recompose-activations: every spelling exporters write is found, near misses are refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import graph_from, run_pass

from graphopt.frontends.normal_form import normalize

HEAD = "(float[N,4,6] x) => (float[N,4,6] y)"
SIX = "float three = {3.0}, float zero = {0.0}, float six = {6.0}"
ERF = "float root = {1.41421354}, float one = {1.0}, float half = {0.5}"

REWRITES = {
    "mish": f"{HEAD} {{ s = Softplus (x)  t = Tanh (s)  y = Mul (x, t) }}",
    "mish_from_log_and_exp": f"""{HEAD} <float one = {{1.0}}>
        {{ e = Exp (x)  p = Add (one, e)  s = Log (p)  t = Tanh (s)  y = Mul (t, x) }}""",
    "mish_with_the_threshold_of_torch": f"""{HEAD} <float one = {{1.0}}, float t = {{20.0}}>
        {{ p = Mul (x, one)  s = Softplus (p)  d = Div (s, one)  g = Greater (p, t)
           w = Where (g, x, d)  h = Tanh (w)  y = Mul (x, h) }}""",
    "hard_sigmoid_div": f"""{HEAD} <{SIX}>
        {{ a = Add (x, three)  c = Clip (a, zero, six)  y = Div (c, six) }}""",
    "hard_sigmoid_mul_min_max": f"""{HEAD} <{SIX}, float sixth = {{0.16666667}}>
        {{ a = Add (x, three)  m = Max (a, zero)  c = Min (six, m)  y = Mul (sixth, c) }}""",
    "hard_sigmoid_relu_min": f"""{HEAD} <{SIX}>
        {{ a = Add (x, three)  m = Relu (a)  c = Min (m, six)  y = Div (c, six) }}""",
    "hard_sigmoid_unit_clip": f"""{HEAD}
        <float a = {{0.2}}, float b = {{0.5}}, float zero = {{0.0}}, float one = {{1.0}}>
        {{ s = Mul (x, a)  t = Add (s, b)  y = Clip (t, zero, one) }}""",
    "hard_swish_product_first": f"""{HEAD} <{SIX}>
        {{ a = Add (x, three)  c = Clip (a, zero, six)  m = Mul (x, c)  y = Div (m, six) }}""",
    "hard_swish_sigmoid_first": f"""{HEAD} <{SIX}>
        {{ a = Add (three, x)  c = Clip (a, zero, six)  d = Div (c, six)  y = Mul (d, x) }}""",
    "hard_swish_input_first": f"""{HEAD} <{SIX}>
        {{ a = Add (x, three)  c = Clip (a, zero, six)  d = Div (x, six)  y = Mul (d, c) }}""",
    "hard_swish_from_hard_sigmoid": f"""{HEAD}
        {{ s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)  y = Mul (x, s) }}""",
    "gelu_torchscript": f"""{HEAD} <{ERF}>
        {{ d = Div (x, root)  e = Erf (d)  a = Add (e, one)  m = Mul (x, a)
           y = Mul (m, half) }}""",
    "gelu_half_first": f"""{HEAD} <float r = {{0.70710677}}, float one = {{1.0}},
        float half = {{0.5}}>
        {{ d = Mul (r, x)  e = Erf (d)  a = Add (one, e)  h = Mul (half, x)  y = Mul (a, h) }}""",
    "gelu_half_inside": f"""{HEAD} <float[1] root = {{1.41421354}}, float[1,1] half = {{0.5}}>
        {{ d = Div (x, root)  e = Erf (d)  h = Mul (e, half)  a = Add (h, half)
           y = Mul (x, a) }}""",
    "gelu_tanh_pow": f"""{HEAD} <float k = {{0.044715}}, float c = {{0.79788458}},
        float three = {{3.0}}, float one = {{1.0}}, float half = {{0.5}}>
        {{ q = Pow (x, three)  r = Mul (q, k)  s = Add (x, r)  u = Mul (s, c)  t = Tanh (u)
           a = Add (t, one)  h = Mul (x, half)  y = Mul (h, a) }}""",
    "gelu_tanh_products": f"""{HEAD} <float k = {{0.035677408}}, float c = {{0.79788458}},
        float one = {{1.0}}, float half = {{0.5}}>
        {{ q = Mul (x, x)  r = Mul (q, k)  s = Add (r, c)  u = Mul (s, x)  t = Tanh (u)
           a = Add (t, one)  h = Mul (a, half)  y = Mul (x, h) }}""",
    "sigmoid": f"""{HEAD} <float one = {{1.0}}>
        {{ n = Neg (x)  e = Exp (n)  a = Add (e, one)  y = Div (one, a) }}""",
    "sigmoid_reciprocal": f"""{HEAD} <float one = {{1.0}}, float minus = {{-1.0}}>
        {{ n = Mul (x, minus)  e = Exp (n)  a = Add (one, e)  y = Reciprocal (a) }}""",
    "silu": f"""{HEAD} <float one = {{1.0}}>
        {{ n = Neg (x)  e = Exp (n)  a = Add (e, one)  y = Div (x, a) }}""",
    "leaky_relu": f"{HEAD} <float a = {{0.1}}> {{ s = Mul (a, x)  y = Max (s, x) }}",
    "leaky_relu_from_two_relus": f"""{HEAD} <float a = {{0.25}}>
        {{ p = Relu (x)  m = Neg (x)  r = Relu (m)  s = Mul (r, a)  y = Sub (p, s) }}""",
    "prelu": f"""{HEAD} <float[4,1] a>
        {{ p = Relu (x)  m = Neg (x)  r = Relu (m)  s = Mul (a, r)  y = Sub (p, s) }}""",
    "prelu_negated": f"""{HEAD} <float[4,1] a>
        {{ p = Relu (x)  m = Neg (x)  r = Relu (m)  s = Mul (a, r)  y = Add (s, p) }}""",
    "gated_by_a_smaller_tensor": """(float[N,4,6] x, float[6] z) => (float[N,4,6] y)
        <float one = {1.0}>
        { n = Neg (z)  e = Exp (n)  a = Add (e, one)  y = Div (x, a) }""",
    "result_read_twice": """(float[N,4,6] x) => (float[N,4,6] y, float[N,4,6] z)
        { s = Softplus (x)  t = Tanh (s)  y = Mul (x, t)  z = Neg (y) }""",
    "constant_before_the_input": f"""{HEAD} <{SIX}, float two = {{2.0}}>
        {{ v = Mul (x, two)  a = Add (v, three)  c = Clip (a, zero, six)  m = Mul (v, c)
           y = Div (m, six) }}""",
}

REFUSALS = {
    "ends_in_a_subgraph": (
        """(float[1,4] x, bool p) => (float[1,4] y) { s = Softplus (x)  t = Tanh (s)
           y = If (p) <then_branch = yes () => (float[1,4] a) { a = Mul (x, t) },
                       else_branch = no () => (float[1,4] b) { b = Neg (x) }> }""",
        "in a subgraph",
    ),
    "sixth_rounded": (
        f"""{HEAD} <{SIX}, float sixth = {{0.16667}}> {{ a = Add (x, three)  c = Clip (a, zero, six)
        m = Mul (x, c)  y = Mul (m, sixth) }}""",
        "one part in a million",
    ),
    "root_two_rounded": (
        f"""{HEAD} <float root = {{1.414}}, float one = {{1.0}}, float half = {{0.5}}>
        {{ d = Div (x, root)  e = Erf (d)  a = Add (e, one)  m = Mul (x, a)
           y = Mul (m, half) }}""",
        "one part in a million",
    ),
    "intermediate_read": (
        """(float[N,4,6] x) => (float[N,4,6] y, float[N,4,6] z)
        { s = Softplus (x)  t = Tanh (s)  y = Mul (x, t)  z = Neg (s) }""",
        "read elsewhere",
    ),
    "intermediate_is_an_output": (
        """(float[N,4,6] x) => (float[N,4,6] y, float[N,4,6] t)
        { s = Softplus (x)  t = Tanh (s)  y = Mul (x, t) }""",
        "output of the model",
    ),
    "softplus_overflows": (
        f"{HEAD} <float one = {{1.0}}> {{ e = Exp (x)  a = Add (e, one)  y = Log (a) }}",
        "infinite above x = 88",
    ),
    "half_precision": (
        """(float16[N,4,6] x) => (float16[N,4,6] y)
        { s = Softplus (x)  t = Tanh (s)  y = Mul (x, t) }""",
        "float16",
    ),
}

LEFT_ALONE = {
    "softplus_with_a_low_threshold": f"""{HEAD} <float t = {{5.0}}>
        {{ s = Softplus (x)  g = Greater (x, t)  y = Where (g, x, s) }}""",
    "exponential_over_its_sum": f"""{HEAD} <float one = {{1.0}}>
        {{ n = Neg (x)  e = Exp (n)  a = Add (e, one)  r = Div (e, a)  y = Clip (r) }}""",
    "silu_as_sigmoid_and_product": f"{HEAD} {{ s = Sigmoid (x)  y = Mul (x, s) }}",
    "tanh_of_softplus_of_another": """(float[N,4,6] x, float[N,4,6] z) => (float[N,4,6] y)
        { s = Softplus (x)  t = Tanh (s)  y = Mul (z, t) }""",
    "slope_above_one": f"{HEAD} <float a = {{1.5}}> {{ s = Mul (a, x)  y = Max (s, x) }}",
    "absolute_value": f"{HEAD} {{ p = Relu (x)  m = Neg (x)  r = Relu (m)  y = Add (p, r) }}",
    "clip_alone": f"{HEAD} <float z = {{0.0}}, float o = {{1.0}}> {{ y = Clip (x, z, o) }}",
    "constant_enlarges": """(float[1,4] x) => (float[3,4] y)
        <float[3,1] half = {0.5, 0.5, 0.5}, float root = {1.41421354}, float one = {1.0}>
        { d = Div (x, root)  e = Erf (d)  a = Add (e, one)  m = Mul (x, a)
           y = Mul (m, half) }""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_recomposes(case: str, golden) -> None:
    ran = run_pass("recompose-activations", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("recompose-activations", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("recompose-activations", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons


@pytest.mark.parametrize("case", REWRITES)
def test_a_second_run_finds_nothing(case: str) -> None:
    ran = run_pass("recompose-activations", REWRITES[case])
    assert not run_pass("recompose-activations", ran.graph).result.rewrites


def test_finds_the_hard_swish_of_a_real_export(assets) -> None:
    model = onnx.load(assets / "onnx_zoo" / "ort_mnv3_excerpt.onnx")
    assert run_pass("recompose-activations", normalize(model)).ops == ["Conv", "HardSwish"]


def test_the_slopes_of_prelu_are_the_ones_written() -> None:
    graph = graph_from(REWRITES["prelu_negated"])
    before = next(t.values for t in graph.tensors().values() if t.name == "a")
    (node,) = run_pass("recompose-activations", graph).graph.nodes
    np.testing.assert_array_equal(node.inputs[1].values, -before)
