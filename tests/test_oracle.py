"""The oracle: it sees small errors everywhere, and is not fooled by scale, NaN or noise."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import RunError
from graphopt.ir.graph import add_constant, nodes_of, set_input
from graphopt.oracle import Oracle, error_of


def test_equal_is_zero() -> None:
    a = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert error_of(a, a.copy()) == 0.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.float32([1, 2]), np.float32([1, 2, 3])),
        (np.float32([1, 2]), np.float64([1, 2])),
        (np.float32([1, np.nan]), np.float32([1, 2])),
        (np.float32([1, 2]), np.float32([np.nan, 2])),
        (np.float32([1, np.inf]), np.float32([1, -np.inf])),
        (np.float32([1]), None),
        ([np.float32([1])], [np.float32([1]), np.float32([2])]),
    ],
)
def test_what_is_infinitely_wrong(a: object, b: object) -> None:
    assert error_of(a, b) == float("inf")


def test_integers_count_what_differs() -> None:
    assert error_of(np.arange(10), np.arange(10) // 9 * 9 + np.arange(10) % 9) == 0.0
    assert error_of(np.arange(10), np.r_[np.arange(9), 0]) == pytest.approx(0.1)


def test_small_scores_beside_large_boxes_are_seen() -> None:
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.uniform(0, 416, (1, 500, 4)), rng.uniform(0, 0.1, (1, 500, 2))], axis=2)
    b = a.copy()
    b[0, 3, 5] *= 1.01
    # Against the largest value, this error would be 2e-6 and pass unseen.
    assert error_of(a.astype(np.float32), b.astype(np.float32)) > 1e-3


def test_a_weight_off_by_one_percent_is_seen() -> None:
    graph = graph_from(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w> { c = Conv (x, w)  y = Relu (c) }"
    )
    oracle = Oracle(graph)
    assert oracle.check(graph, 0.0).passed
    twin = graph.copy()
    conv = next(nodes_of(twin, "Conv"))
    weight = conv.inputs[1].values.copy()
    weight[2, 1] *= 1.01
    set_input(conv, 1, add_constant(twin, "w", weight))
    verdict = oracle.check(twin, 1e-4)
    assert not verdict.passed
    assert verdict.output == "y"


def test_an_error_only_large_negative_values_show_is_seen() -> None:
    graph = graph_from("(float[N,64] x) => (float[N,64] y) { y = Relu (x) }")
    other = graph_from(
        "(float[N,64] x) => (float[N,64] y) <float low = {-6.0}> { a = Clip (x, low)  b = Relu (a)  c = Sub (a, a) y = Add (b, c) }"
    )
    assert Oracle(graph).check(other, 1e-5).passed
    clipped = graph_from(
        "(float[N,64] x) => (float[N,64] y) <float low = {0.0}, float high = {6.0}> { y = Clip (x, low, high) }"
    )
    assert not Oracle(graph).check(clipped, 1e-5).passed


def test_both_batches_are_tried() -> None:
    graph = graph_from("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    recipes = [s.recipe for s in Oracle(graph).samples]
    assert "N=1" in recipes[0]
    assert "N=2" in recipes[1]


def test_same_seed_same_inputs() -> None:
    graph = graph_from("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    first, second, third = (Oracle(graph, seed=s).samples[0].feeds["x"] for s in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_indices_are_drawn_in_range() -> None:
    graph = graph_from(
        "(int64[7] i) => (float[7,2] y) <float[3,2] table> { y = Gather (table, i) }"
    )
    for sample in Oracle(graph).samples:
        assert 0 <= sample.feeds["i"].min() <= sample.feeds["i"].max() < 3


def test_a_fixed_batch_behind_a_symbolic_one_is_found() -> None:
    graph = graph_from(
        "(float[N,4] x) => (float[2,2] y) <int64[2] s = {2,2}> { y = Reshape (x, s) }"
    )
    assert all(s.feeds["x"].shape == (1, 4) for s in Oracle(graph).samples)


def test_overflowing_inputs_are_drawn_smaller() -> None:
    graph = graph_from("(float[1,64] x) => (float[1,64] y) { a = Mul (x, x)  y = Exp (a) }")
    sample = Oracle(graph).samples[1]
    assert np.isfinite(sample.expected["y"]).mean() > 0.5
    assert "times" in sample.recipe


def test_noise_is_measured_and_capped() -> None:
    calm = graph_from("(float[1,64] x) => (float[1,64] y) { y = Relu (x) }")
    assert Oracle(calm).check(calm, 1e-5).tolerance == pytest.approx(1e-5)
    wild = graph_from(
        "(float[1,64] x) => (float[1,64] y) <float k = {30000.0}> { a = Mul (x, k)  y = Sin (a) }"
    )
    assert 1e-5 < Oracle(wild).check(wild, 1e-5).tolerance <= 1e-3


def test_a_model_nothing_can_run() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { y = Relu (x) }")
    graph.nodes[0].op, graph.nodes[0].domain = "Strange", "my.ops"
    with pytest.raises(RunError, match=r"ONNX Runtime cannot load it: .*Strange.*; onnx.reference"):
        Oracle(graph)


def test_onnx_reference_steps_in() -> None:
    # ONNX Runtime has no kernel for a float64 HardSwish.
    graph = graph_from("(double[4] x) => (double[4] y) { y = HardSwish (x) }")
    oracle = Oracle(graph)
    if oracle.executor == "onnxruntime":
        pytest.skip("this ONNX Runtime runs it")
    assert oracle.executor == "onnx.reference"
    assert oracle.check(graph, 0.0).passed


def test_an_index_into_a_tensor_of_unknown_rank() -> None:
    graph = graph_from(
        """(float[2,3] x, int64[k] i) => (float[a,b] y) <int64[2] shape = {2, 3}>
        { s = Add (shape, shape)  t = Sub (s, shape)  r = Reshape (x, t)  y = Gather <axis = 1> (r, i) }"""
    )
    graph.nodes[-1].inputs[0].shape = None
    with pytest.raises(RunError):
        Oracle(graph)


def test_a_type_numpy_lacks_is_drawn_and_judged() -> None:
    graph = graph_from("(bfloat16[4] x) => (bfloat16[4] y) { y = Abs (x) }")
    assert Oracle(graph).check(graph, 0.0).passed


def test_a_type_nothing_can_be_drawn_for() -> None:
    with pytest.raises(RunError, match="no values can be drawn"):
        Oracle(graph_from("(string[4] x) => (string[4] y) { y = StringNormalizer (x) }"))
