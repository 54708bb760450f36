"""fuse-conv-bn: every legal arrangement folds, every trap of the field is refused."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from, run_pass

BN = "float[8] gamma, float[8] beta, float[8] mean, float[8] var"

FOLDS = {
    "plain": f"""(float[N,3,8,8] x) => (float[N,8,8,8] y) <float[8,3,3,3] w, float[8] b, {BN}>
        {{ c = Conv <pads = [1,1,1,1]> (x, w, b)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "no_bias": f"""(float[1,3,8,8] x) => (float[1,8,6,6] y) <float[8,3,3,3] w, {BN}>
        {{ c = Conv (x, w)  y = BatchNormalization <epsilon = 0.001> (c, gamma, beta, mean, var) }}""",
    "depthwise": f"""(float[1,8,8,8] x) => (float[1,8,6,6] y) <float[8,1,3,3] w, float[8] b, {BN}>
        {{ c = Conv <group = 8> (x, w, b)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "grouped": f"""(float[1,4,8,8] x) => (float[1,8,6,6] y) <float[8,2,3,3] w, {BN}>
        {{ c = Conv <group = 2> (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "one_dimensional": f"""(float[1,3,9] x) => (float[1,8,7] y) <float[8,3,3] w, {BN}>
        {{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "transposed": f"""(float[1,3,4,4] x) => (float[1,8,9,9] y) <float[3,8,3,3] w, float[8] b, {BN}>
        {{ c = ConvTranspose <strides = [2,2]> (x, w, b)
           y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "transposed_grouped": f"""(float[1,6,4,4] x) => (float[1,8,6,6] y) <float[6,4,3,3] w, {BN}>
        {{ c = ConvTranspose <group = 2> (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "gemm": f"""(float[N,5] x) => (float[N,8] y) <float[8,5] w, float[8] b, {BN}>
        {{ c = Gemm <transB = 1> (x, w, b)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "gemm_alpha_beta": f"""(float[N,5] x) => (float[N,8] y) <float[5,8] w, float[1] b, {BN}>
        {{ c = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)
           y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "matmul": f"""(float[N,5] x) => (float[N,8] y) <float[5,8] w, {BN}>
        {{ c = MatMul (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
    "two_in_a_row": f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  d = BatchNormalization (c, gamma, beta, mean, var)
           y = BatchNormalization (d, beta, gamma, mean, var) }}""",
    "shared_statistics": f"""(float[1,3,8,8] x) => (float[1,8,8,8] y)
        <float[8,3,1,1] w, float[8,3,1,1] v, {BN}>
        {{ c = Conv (x, w)  d = BatchNormalization (c, gamma, beta, mean, var)
           e = Conv (x, v)  f = BatchNormalization (e, gamma, beta, mean, var)  y = Add (d, f) }}""",
}

REFUSALS = {
    "read_twice": (
        f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  d = BatchNormalization (c, gamma, beta, mean, var)  y = Add (c, d) }}""",
        "second reader",
    ),
    "conv_is_output": (
        f"""(float[1,3,8,8] x) => (float[1,8,8,8] c, float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
        "second reader",
    ),
    "shared_weight": (
        f"""(float[1,3,8,8] x, float[1,3,8,8] z) => (float[1,8,8,8] y, float[1,8,8,8] v)
        <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var)  v = Conv (z, w) }}""",
        "shared weight",
    ),
    "training_mode": (
        f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)
           y, m, v = BatchNormalization <training_mode = 1> (c, gamma, beta, mean, var) }}""",
        "training mode",
    ),
    "computed_weight": (
        f"""(float[1,3,8,8] x, float[8,3,1,1] w) => (float[1,8,8,8] y) <{BN}>
        {{ c = Conv (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }}""",
        "computed at run time",
    ),
    "matmul_of_rank_3": (
        """(float[2,8,5] x) => (float[2,8,6] y)
        <float[5,6] w, float[8] gamma, float[8] beta, float[8] mean, float[8] var>
        { c = MatMul (x, w)  y = BatchNormalization (c, gamma, beta, mean, var) }""",
        "rank is not 2",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fuse-conv-bn", FOLDS[case])
    assert ran.result.status == "verified"
    assert "BatchNormalization" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-conv-bn", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_leaves_a_relu_between_alone() -> None:
    ran = run_pass(
        "fuse-conv-bn",
        f"""(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w, {BN}>
        {{ c = Conv (x, w)  r = Relu (c)  y = BatchNormalization (r, gamma, beta, mean, var) }}""",
    )
    assert ran.ops == ["Conv", "Relu", "BatchNormalization"]


def test_folded_weights_are_the_only_ones_written() -> None:
    ran = run_pass("fuse-conv-bn", FOLDS["plain"])
    names = [t.name for t in ran.graph.tensors().values()]
    assert not {"gamma", "beta", "mean", "var"} & set(names)


def test_the_array_of_the_input_graph_is_not_written_to() -> None:
    graph = graph_from(FOLDS["plain"])
    before = {t.name: t.values.copy() for t in graph.tensors().values() if hasattr(t, "values")}
    run_pass("fuse-conv-bn", graph)
    for tensor in graph.tensors().values():
        if tensor.name in before:
            np.testing.assert_array_equal(tensor.values, before[tensor.name])
