"""simplify: what is constant, dead, repeated or does nothing goes; what later stages need stays."""

from __future__ import annotations

import pytest
from conftest import run_pass

BN = "float[8] gamma, float[8] beta, float[8] mean, float[8] var"

REWRITES = {
    "constant_folding": """(float[1,4] x) => (float[1,4] y) <float[4] a, float[4] b>
        { c = Mul (a, b)  d = Sqrt (c)  e = IsNaN (d)  f = Where (e, a, d)  y = Add (x, f) }""",
    "repeated_computation": """(float[1,4] x) => (float[1,4] y)
        { a = Exp (x)  b = Exp (x)  c = Add (a, b)  y = Relu (c) }""",
    "equal_constants_make_equal_nodes": """(float[1,4] x) => (float[1,4] y) <float a = {2.0}, float b = {2.0}>
        { c = Pow (x, a)  d = Pow (x, b)  y = Add (c, d) }""",
    "does_nothing": """(float[1,4] x) => (float[1,4] y) <int64[2] s = {1,4}>
        { c = Dropout (x)  d = Expand (c, s)  y = Relu (d) }""",
    "shape_of_a_static_tensor": """(float[2,3,4] x) => (float[2,12] y) <int64 i = {0}, int64[1] minus = {-1}, int64[1] ax = {0}>
        { s = Shape (x)  g = Gather (s, i)  u = Unsqueeze (g, ax)  t = Concat <axis = 0> (u, minus)  y = Reshape (x, t) }""",
    "bias_written_as_expand": f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, float zero = {{0.0}}, int64[1] n = {{8}}, {BN}>
        {{ z = CastLike (zero, w)  b = Expand (z, n)  c = Conv (x, w, b)
           y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "bias_of_zeros": """(float[1,3,8,8] x) => (float[1,2,8,8] y) <float[2,3,1,1] w, float[2] b = {0.0, 0.0}>
        { y = Conv (x, w, b) }""",
    "in_a_branch": """(float[1,4] x, bool p) => (float[1,4] y) <float[4] k>
        { y = If (p) <
            then_branch = g1 () => (float[1,4] t) { a = Exp (k)  b = Mul (a, k)  t = Add (x, b) },
            else_branch = g2 () => (float[1,4] e) { e = Relu (x) } > }""",
}

LEFT = {
    "batch_norm_is_not_folded": f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "equal_weights_stay_apart": """(float[1,2] x) => (float[1,2] y) <float[2,2] v = {1.0,2.0,3.0,4.0}, float[2,2] w = {1.0,2.0,3.0,4.0}>
        { a = MatMul (x, v)  b = Relu (a)  y = MatMul (b, w) }""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_simplifies(case: str, golden) -> None:
    ran = run_pass("simplify", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", LEFT)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("simplify", LEFT[case])
    assert ran.result.status == "unchanged"


def test_random_operators_are_never_merged() -> None:
    # onnxsim, onnxslim and onnxoptimizer merge these two draws into one.
    from conftest import graph_from

    from graphopt.passes.simplify.simplify import Simplify
    from graphopt.pipeline import Pipeline

    graph = graph_from(
        """(float[1,4] x) => (float[1,4] y)
        { a = RandomUniformLike (x)  b = RandomUniformLike (x)  c = Sub (a, b)  y = Add (x, c) }"""
    )
    after = Pipeline([Simplify()]).run(graph).graph
    assert [n.op for n in after.nodes].count("RandomUniformLike") == 2


def test_the_rewrite_names_what_went() -> None:
    ran = run_pass("simplify", REWRITES["repeated_computation"])
    assert ran.result.rewrites[0].what == "-1 Exp"
