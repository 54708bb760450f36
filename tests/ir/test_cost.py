"""Costs, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from conftest import graph_from

from graphopt.ir.cost import cost_of, node_cost

QCONV = """(uint8[1,3,8,8] x) => (uint8[1,8,8,8] y)
    <uint8[8,3,3,3] w, float s = {0.1}, uint8 z = {0}>
    { y = QLinearConv <pads = [1,1,1,1]> (x, s, z, w, s, z, s, z) }"""

# text, MACs of the last node, parameters of the graph
COSTS = {
    # 8*8*8 outputs of 3*3*3 taps
    "conv": (
        "(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,3,3] w, float[8] b> { y = Conv <pads = [1,1,1,1]> (x, w, b) }",
        512 * 27,
        216 + 8,
    ),
    # 8*6*6 outputs of (8/4)*3*3 taps
    "grouped": (
        "(float[1,8,8,8] x) => (float[1,8,6,6] y) <float[8,2,3,3] w> { y = Conv <group = 4> (x, w) }",
        288 * 18,
        144,
    ),
    # 8*6*6 outputs of 1*3*3 taps
    "depthwise": (
        "(float[1,8,8,8] x) => (float[1,8,6,6] y) <float[8,1,3,3] w> { y = Conv <group = 8> (x, w) }",
        288 * 9,
        72,
    ),
    # 4*3*3 outputs (stride 2) of 3*2*2 taps
    "strided": (
        "(float[1,3,6,6] x) => (float[1,4,3,3] y) <float[4,3,2,2] w> { y = Conv <strides = [2,2]> (x, w) }",
        36 * 12,
        48,
    ),
    # 2*3*5 images of 1 frame each
    "one_dimensional": (
        "(float[2,3,7] x) => (float[2,4,5] y) <float[4,3,3] w> { y = Conv (x, w) }",
        40 * 9,
        36,
    ),
    # a symbolic batch counts as one image
    "symbolic_batch": (
        "(float[N,3,8,8] x) => (float[N,8,6,6] y) <float[8,3,3,3] w> { y = Conv (x, w) }",
        288 * 27,
        216,
    ),
    # 3*4*4 inputs, each spread over 5*3*3 outputs
    "transposed": (
        "(float[1,3,4,4] x) => (float[1,5,9,9] y) <float[3,5,3,3] w> { y = ConvTranspose <strides = [2,2]> (x, w) }",
        48 * 45,
        135,
    ),
    # 6*4*4 inputs, each spread over (8/2)*3*3 outputs
    "transposed_grouped": (
        "(float[1,6,4,4] x) => (float[1,8,6,6] y) <float[6,4,3,3] w> { y = ConvTranspose <group = 2> (x, w) }",
        96 * 36,
        216,
    ),
    "gemm": (
        "(float[2,5] x) => (float[2,8] y) <float[5,8] w, float[8] b> { y = Gemm (x, w, b) }",
        80,
        48,
    ),
    "gemm_trans_a": (
        "(float[5,2] x) => (float[2,8] y) <float[8,5] w> { y = Gemm <transA = 1, transB = 1> (x, w) }",
        80,
        40,
    ),
    "matmul": (
        "(float[2,7,5] x) => (float[2,7,8] y) <float[5,8] w> { y = MatMul (x, w) }",
        2 * 7 * 8 * 5,
        40,
    ),
    "attention": (
        "(float[2,7,5] x, float[2,5,3] z) => (float[2,7,3] y) { y = MatMul (x, z) }",
        2 * 7 * 3 * 5,
        0,
    ),
    # weights of 8 bits are parameters, and so are the scale (once) and the zero point (once)
    "quantized": (QCONV, 512 * 27, 216 + 2),
    "indices_are_no_parameters": (
        "(float[4,2] x) => (float[2,2] y) <int64[2] i = {0, 3}> { y = Gather (x, i) }",
        0,
        0,
    ),
    "an_activation_is_free": ("(float[1,8] x) => (float[1,8] y) { y = Sigmoid (x) }", 0, 0),
}


@pytest.mark.parametrize("case", COSTS)
def test_by_hand(case: str) -> None:
    text, macs, parameters = COSTS[case]
    graph = graph_from(text)
    assert node_cost(graph.nodes[-1]).macs == cost_of(graph).macs == macs
    assert cost_of(graph).parameters == parameters


def test_a_shared_weight_counts_once_in_the_total_and_in_every_row() -> None:
    graph = graph_from(
        "(float[1,3,8,8] x) => (float[1,3,8,8] y) <float[3,3,1,1] w> { a = Conv (x, w)  y = Conv (a, w) }"
    )
    total = cost_of(graph)
    assert [node_cost(n).parameters for n in graph.nodes] == [9, 9]
    assert (total.parameters, total.weight_bytes) == (9, 36)
    assert total.macs == 2 * 192 * 3
    assert total.activation_bytes == 2 * 192 * 4


def test_bytes_follow_the_type() -> None:
    half = graph_from("(float16[4,5] x) => (float16[4,5] y) <float16[5] k> { y = Mul (x, k) }")
    assert (cost_of(half).activation_bytes, cost_of(half).weight_bytes) == (40, 10)


def test_unknown_shapes_and_foreign_operators_cost_nothing_that_is_known() -> None:
    graph = graph_from(
        """(float[1,3,8,8] x, int64[k] s) => (float[a,b,c,d] y) <float[4,3,1,1] w>
        { r = Reshape (x, s)  y = Conv (r, w) }"""
    )
    graph.outputs[0].shape = None
    assert (cost_of(graph).macs, cost_of(graph).parameters) == (0, 12)
    graph.nodes[-1].domain = "my.domain"
    assert node_cost(graph.nodes[-1]).op == "my.domain::Conv"
    assert node_cost(graph.nodes[-1]).macs == 0


def test_a_rounded_tensor_is_held_once_as_integers() -> None:
    graph = graph_from(
        """(float[1,4,8,8] x) => (float[1,4,8,8] y)
        <int8[4,4,1,1] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float s = {0.5}, uint8 z = {3}>
        { v = DequantizeLinear (w, s)  a = Conv (x, v)
          q = QuantizeLinear (a, s, z)  d = DequantizeLinear (q, s, z)  y = Relu (d) }"""
    )
    assert cost_of(graph).activation_bytes == 256 + 4 * 256  # q in bytes, y in float
