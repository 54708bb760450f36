"""recompose-norms: the spellings of layer and RMS normalization, and what is not one."""

from __future__ import annotations

import pytest
from conftest import run_pass

HEAD = "(float[N,4,6] x) => (float[N,4,6] y)"
CONSTANTS = "int64[1] axes = {-1}, float two = {2.0}, float eps = {0.00001}, float one = {1.0}"
CENTRE = "m = ReduceMean (x, axes)  d = Sub (x, m)"
DEVIATION = "p = Mul (d, d)  v = ReduceMean (p, axes)  e = Add (v, eps)  s = Sqrt (e)"
RMS = "p = Mul (x, x)  v = ReduceMean (p, axes)  e = Add (v, eps)  s = Sqrt (e)"
LAYER = f"{CENTRE} {DEVIATION}"

REWRITES = {
    "plain": f"{HEAD} <{CONSTANTS}> {{ {LAYER} y = Div (d, s) }}",
    "affine_by_pow": f"""{HEAD} <{CONSTANTS}, float[6] gamma, float[6] beta>
        {{ {CENTRE} p = Pow (d, two)  v = ReduceMean (p, axes)  e = Add (eps, v)  s = Sqrt (e)
           n = Div (d, s)  g = Mul (n, gamma)  y = Add (g, beta) }}""",
    "reciprocal": f"""{HEAD} <{CONSTANTS}, float[6] gamma>
        {{ {LAYER} r = Reciprocal (s)  n = Mul (r, d)  y = Mul (gamma, n) }}""",
    "one_divided_by": f"""{HEAD} <{CONSTANTS}, float[1,1,6] beta>
        {{ {LAYER} r = Div (one, s)  n = Mul (d, r)  y = Add (n, beta) }}""",
    "two_axes": f"""(float[N,3,4,6] x) => (float[N,3,4,6] y)
        <int64[2] axes = {{3, 2}}, float eps = {{0.001}}, float[4,1] gamma>
        {{ {LAYER} n = Div (d, s)  y = Mul (n, gamma) }}""",
    "gamma_of_another_axis_stays": f"""{HEAD} <{CONSTANTS}, float[4,1] gamma>
        {{ {LAYER} n = Div (d, s)  y = Mul (n, gamma) }}""",
    "computed_gamma_stays": f"""(float[N,4,6] x, float[6] g) => (float[N,4,6] y)
        <{CONSTANTS}> {{ {LAYER} n = Div (d, s)  y = Mul (n, g) }}""",
}

REFUSALS = {
    "first_axis": (
        f"""{HEAD} <int64[1] axes = {{1}}, float eps = {{0.001}}> {{ {LAYER} y = Div (d, s) }}""",
        "not the last ones",
    ),
    "deviation_read_elsewhere": (
        f"""(float[N,4,6] x) => (float[N,4,6] y, float[N,4,1] z) <{CONSTANTS}>
        {{ {LAYER} y = Div (d, s)  z = Relu (s) }}""",
        "read elsewhere",
    ),
    "mean_is_an_output": (
        f"""(float[N,4,6] x) => (float[N,4,6] y, float[N,4,1] m) <{CONSTANTS}>
        {{ {LAYER} y = Div (d, s) }}""",
        "output of the model",
    ),
    "symbolic_width": (
        f"(float[2,4,W] x) => (float[2,4,W] y) <{CONSTANTS}> {{ {LAYER} y = Div (d, s) }}",
        "not a fixed number",
    ),
    "double": (
        f"""(double[2,4,6] x) => (double[2,4,6] y) <int64[1] axes = {{-1}}, double eps = {{0.1}}>
        {{ {LAYER} y = Div (d, s) }}""",
        "float64",
    ),
    "rms_in_an_old_opset": (
        f"{HEAD} <{CONSTANTS}> {{ {RMS} y = Div (x, s) }}",
        "opset 23, and the model has opset 20",
    ),
}

LEFT_ALONE = {
    "cube": f"""{HEAD} <{CONSTANTS}, float three = {{3.0}}>
        {{ {CENTRE} p = Pow (d, three)  v = ReduceMean (p, axes)  a = Abs (v)  e = Add (a, eps)
           s = Sqrt (e)  y = Div (d, s) }}""",
    "divides_something_else": f"""(float[N,4,6] x, float[N,4,6] z) => (float[N,4,6] y)
        <{CONSTANTS}> {{ {LAYER} y = Div (z, s) }}""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_recomposes(case: str, golden) -> None:
    ran = run_pass("recompose-norms", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


def test_recomposes_rms_from_opset_23_on(golden) -> None:
    ran = run_pass(
        "recompose-norms",
        f"""{HEAD} <{CONSTANTS}, float[6] gamma>
        {{ {RMS} r = Reciprocal (s)  n = Mul (x, r)  y = Mul (n, gamma) }}""",
        opset=23,
    )
    assert ran.ops == ["RMSNormalization"]
    golden(ran.text)


def test_centring_over_other_axes_is_not_layer_normalization() -> None:
    ran = run_pass(
        "recompose-norms",
        f"""{HEAD} <{CONSTANTS}, int64[1] rows = {{1}}>
        {{ m = ReduceMean (x, rows)  d = Sub (x, m)  {DEVIATION}  y = Div (d, s) }}""",
        opset=23,
    )
    assert ran.ops == ["ReduceMean", "Sub", "RMSNormalization"]


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("recompose-norms", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("recompose-norms", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_a_scale_inside_a_subgraph_stays_there() -> None:
    ran = run_pass(
        "recompose-norms",
        f"""(float[N,4,6] x, bool flag) => (float[N,4,6] y) <{CONSTANTS}, float[6] gamma>
        {{ {LAYER} n = Div (d, s)
           y = If (flag) <then_branch = yes () => (float[N,4,6] a) {{ a = Mul (n, gamma) }},
                       else_branch = no () => (float[N,4,6] b) {{ b = Neg (n) }}> }}""",
    )
    assert ran.ops == ["LayerNormalization", "If"]
