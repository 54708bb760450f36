"""fuse-pad: explicit padding moves into convolutions and pools, never where it would be another one."""

from __future__ import annotations

import pytest
from conftest import graph_from, run_pass

from graphopt.pipeline import Pipeline
from graphopt.registry import pass_class

FOLDS = {
    "conv": """(float[N,3,8,8] x) => (float[N,8,10,9] y) <float[8,3,3,3] w, int64[8] p = {0,0,1,2,0,0,2,1}>
        { q = Pad (x, p)  y = Conv <pads = [0,0,1,0]> (q, w) }""",
    "conv_with_explicit_zero": """(float[1,3,8,8] x) => (float[1,8,8,8] y)
        <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}, float zero = {0.0}>
        { q = Pad (x, p, zero)  y = Conv (q, w) }""",
    "conv_1d": """(float[1,3,8] x) => (float[1,8,8] y) <float[8,3,3] w, int64[6] p = {0,0,1,0,0,1}>
        { q = Pad (x, p)  y = Conv (q, w) }""",
    "average_pool": """(float[1,3,8,8] x) => (float[1,3,5,5] y) <int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad (x, p)  y = AveragePool <kernel_shape = [2,2], strides = [2,2]> (q) }""",
    "average_pool_counting": """(float[1,3,8,8] x) => (float[1,3,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad (x, p)  y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (q) }""",
    "max_pool_minus_infinity": """(float[1,3,8,8] x) => (float[1,3,8,8] y)
        <int64[8] p = {0,0,1,1,0,0,1,1}, float low = {-inf}>
        { q = Pad (x, p, low)  y = MaxPool <kernel_shape = [3,3]> (q) }""",
    "max_pool_of_the_edge": """(float[1,3,8,8] x) => (float[1,3,8,9] y) <int64[8] p = {0,0,0,2,0,0,1,1}>
        { q = Pad <mode = "edge"> (x, p)  y = MaxPool <kernel_shape = [2,3]> (q) }""",
    "max_pool_after_relu": """(float[1,3,8,8] x) => (float[1,3,8,8] y) <int64[8] p = {0,0,0,0,0,0,1,1}>
        { r = Relu (x)  q = Pad (r, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
}

REFUSALS = {
    "indices_are_read": (
        """(float[1,2,8,8] x) => (float[1,2,5,5] y, int64[1,2,5,5] i) <int64[8] p = {0,0,1,1,0,0,1,1}>
        { r = Relu (x)  q = Pad (r, p)  y, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (q) }""",
        "the indices of MaxPool",
    ),
    "dilated_over_a_tiny_image": (
        """(float[1,2,1,1] x) => (float[1,2,1,1] y) <int64[8] p = {0,0,1,1,0,0,1,1}>
        { r = Relu (x)  q = Pad (r, p)  y = MaxPool <kernel_shape = [2,2], dilations = [2,2]> (q) }""",
        "padding only",
    ),
    "max_pool_of_negatives": (
        """(float[1,3,8,8] x) => (float[1,3,8,8] y) <int64[8] p = {0,0,0,0,0,0,1,1}>
        { q = Pad (x, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
        "may be negative",
    ),
    "max_pool_after_leaky_relu": (
        """(float[1,3,8,8] x) => (float[1,3,8,8] y) <int64[8] p = {0,0,0,0,0,0,1,1}>
        { r = LeakyRelu (x)  q = Pad (r, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
        "may be negative",
    ),
    "windows_of_padding": (
        """(float[1,3,8,8] x) => (float[1,3,11,11] y) <int64[8] p = {0,0,2,2,0,0,2,2}>
        { r = Relu (x)  q = Pad (r, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
        "padding only",
    ),
    "reflect": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad <mode = "reflect"> (x, p)  y = Conv (q, w) }""",
        "reflect",
    ),
    "max_pool_reflected": (
        """(float[1,3,8,8] x) => (float[1,3,8,8] y) <int64[8] p = {0,0,0,0,0,0,1,1}>
        { q = Pad <mode = "reflect"> (x, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
        "reflect",
    ),
    "edge_of_a_convolution": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad <mode = "edge"> (x, p)  y = Conv (q, w) }""",
        "edge",
    ),
    "windows_of_the_edge_only": (
        """(float[1,3,8,8] x) => (float[1,3,8,11] y) <int64[8] p = {0,0,0,2,0,0,1,2}>
        { q = Pad <mode = "edge"> (x, p)  y = MaxPool <kernel_shape = [2,2]> (q) }""",
        "padding only",
    ),
    "fills_with_one": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}, float one = {1.0}>
        { q = Pad (x, p, one)  y = Conv (q, w) }""",
        "fills with 1",
    ),
    "channels": (
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,4,1,1] w, int64[8] p = {0,0,0,0,0,1,0,0}>
        { q = Pad (x, p)  y = Conv (q, w) }""",
        "batch or channels",
    ),
    "crops": (
        """(float[1,3,8,8] x) => (float[1,8,4,4] y) <float[8,3,3,3] w, int64[8] p = {0,0,-1,-1,0,0,-1,-1}>
        { q = Pad (x, p)  y = Conv (q, w) }""",
        "crops",
    ),
    "same_padding": (
        """(float[1,3,8,8] x) => (float[1,8,10,10] y) <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad (x, p)  y = Conv <auto_pad = "SAME_UPPER"> (q, w) }""",
        "auto_pad",
    ),
    "ceil_mode": (
        """(float[1,3,8,8] x) => (float[1,3,5,5] y) <int64[8] p = {0,0,1,1,0,0,0,0}>
        { r = Relu (x)  q = Pad (r, p)  y = MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (q) }""",
        "rounds its size up",
    ),
    "average_pool_not_counting": (
        """(float[1,3,8,8] x) => (float[1,3,10,10] y) <int64[8] p = {0,0,1,1,0,0,1,1}>
        { q = Pad (x, p)  y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (q) }""",
        "does not count",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str, golden) -> None:
    ran = run_pass("fuse-pad", FOLDS[case])
    assert ran.result.status == "verified"
    assert "Pad" not in ran.ops
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-pad", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_a_padding_read_twice_is_no_candidate() -> None:
    ran = run_pass(
        "fuse-pad",
        """(float[1,3,8,8] x) => (float[1,8,8,8] y, float[1,3,10,10] q)
        <float[8,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}> { q = Pad (x, p)  y = Conv (q, w) }""",
    )
    assert ran.ops == ["Pad", "Conv"]


def test_an_operator_of_another_domain_is_no_candidate() -> None:
    graph = graph_from(FOLDS["conv"])
    graph.nodes[1].domain = "my.domain"
    outcome = Pipeline([pass_class("fuse-pad")()]).run(graph)
    assert [n.op for n in outcome.graph.nodes] == ["Pad", "Conv"]
