"""merge-clips: chains become one node, idle ones go, and readers in between are respected."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from, run_pass

HEAD = "(float[N,4] x) => (float[N,4] y)"
C = "float zero = {0.0}, float six = {6.0}, float one = {1.0}, float minus = {-1.0}"

REWRITES = {
    "relu_relu": f"{HEAD} {{ a = Relu (x)  y = Relu (a) }}",
    "clip_of_relu": f"{HEAD} <{C}> {{ a = Relu (x)  y = Clip (a, minus, six) }}",
    "relu_of_clip": f"{HEAD} <{C}> {{ a = Clip (x, minus, six)  y = Relu (a) }}",
    "min_of_relu": f"{HEAD} <{C}> {{ a = Relu (x)  y = Min (six, a) }}",
    "max_of_min": f"{HEAD} <{C}> {{ a = Min (x, six)  y = Max (zero, a) }}",
    "three": f"{HEAD} <{C}> {{ a = Min (x, six)  b = Relu (a)  y = Clip (b, minus, one) }}",
    "disjoint": f"""{HEAD} <{C}, float two = {{2.0}}>
        {{ a = Clip (x, minus, zero)  y = Clip (a, one, two) }}""",
    "one_sided": f"{HEAD} <{C}> {{ a = Max (x, minus)  y = Max (a, one) }}",
    "to_relu": f"{HEAD} <{C}> {{ a = Max (x, minus)  y = Max (a, zero) }}",
    "integers": """(int32[N,4] x) => (int32[N,4] y) <int32 zero = {0}, int32 five = {5}>
        { a = Clip (x, zero)  y = Clip (a, "", five) }""",
    "relu_after_sigmoid": f"{HEAD} {{ a = Sigmoid (x)  y = Relu (a) }}",
    "clip_after_softmax_and_reshape": f"""{HEAD} <{C}, int64[2] s = {{0, 4}}>
        {{ a = Softmax (x)  b = Reshape (a, s)  y = Clip (b, minus, one) }}""",
    "relu_after_pooled_relu": """(float[1,2,4,4] x) => (float[1,2,1,1] y)
        { a = Relu (x)  b = GlobalMaxPool (a)  y = Relu (b) }""",
    "clip_without_bounds": f"{HEAD} {{ a = Neg (x)  b = Clip (a)  y = Neg (b) }}",
    "removed_output": """(float[N,4] x) => (float[N,4] y, float[N,4] a)
        { a = Sigmoid (x)  y = Relu (a) }""",
}

REFUSALS = {
    "read_in_between": (
        f"""(float[N,4] x) => (float[N,4] y, float[N,4] z) <{C}>
        {{ a = Relu (x)  y = Clip (a, zero, six)  z = Neg (a) }}""",
        "second reader",
    ),
    "output_in_between": (
        f"""(float[N,4] x) => (float[N,4] y, float[N,4] a) <{C}>
        {{ a = Relu (x)  y = Min (a, six) }}""",
        "second reader",
    ),
}

LEFT_ALONE = {
    "single": f"{HEAD} <{C}> {{ y = Clip (x, zero, six) }}",
    "computed_bound": f"""{HEAD}
        {{ m = ReduceMean <keepdims = 0> (x)  a = Relu (x)  y = Clip (a, m) }}""",
    "bound_per_channel": f"{HEAD} <float[4] b> {{ a = Relu (x)  y = Min (a, b) }}",
    "min_enlarges": """(float[4] x) => (float[2,4] y) <float[2,1] six = {6.0, 6.0}>
        { a = Relu (x)  y = Min (a, six) }""",
    "crossed_bounds": f"{HEAD} <{C}> {{ a = Relu (x)  y = Clip (a, six, one) }}",
    "windows_of_padding_alone": """(float[1,1,2,2] x) => (float[1,1,h,w] y)
        { a = Relu (x)
          b = MaxPool <kernel_shape = [2,2], dilations = [3,3], pads = [1,1,1,1]> (a)
          y = Relu (b) }""",
    "integer_a_float_cannot_hold": """(int64[4] x) => (int64[4] y)
        <int64 high = {9007199254740993}, int64 low = {5}> { a = Min (x, high)  y = Max (a, low) }""",
    "relu_after_tanh": f"{HEAD} {{ a = Tanh (x)  y = Relu (a) }}",
}


@pytest.mark.parametrize("case", REWRITES)
def test_merges(case: str, golden) -> None:
    ran = run_pass("merge-clips", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("merge-clips", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("merge-clips", LEFT_ALONE[case])
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_clipping_to_infinity_makes_everything_infinite() -> None:
    graph = graph_from(f"{HEAD} <float limit = {{1.0}}> {{ a = Relu (x)  y = Max (a, limit) }}")
    graph.nodes[1].inputs[1].values = np.array(np.inf, np.float32)
    assert run_pass("merge-clips", graph).ops == ["Relu", "Max"]
