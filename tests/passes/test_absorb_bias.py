"""absorb-bias: exact on the data, smaller activations, and refused where a border would show it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Ran, graph_from, run_pass

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.absorb_bias import contribution
from graphopt.runtime.run import open_graph

HIGH = "float[6] b = {9, 8, -9, 7, 9, 0}"
X = "float[N,3,8,8] x"
W = f"float[6,3,3,3] w, {HIGH}, float[4,6,1,1] v, float[4] c"

MOVED = {
    "conv": f"""({X}) => (float[N,4,6,6] y) <{W}> {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c) }}""",
    "no_bias_behind": f"({X}) => (float[N,4,6,6] y) <{W}> {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }}",
    "grouped": f"""({X}) => (float[N,4,4,4] y) <{W}, float[4,3,3,3] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv <group = 2> (r, u) }}""",
    "two_readers": f"""({X}) => (float[N,4,6,6] y, float[N,6,4,4] z) <{W}, float[6,1,3,3] d>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c)  z = Conv <group = 6> (r, d) }}""",
    "pooled_and_flattened": f"""({X}) => (float[N,5] y) <{W}, float[54,5] u>
        {{ a = Conv (x, w, b)  r = Relu (a)
           p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
           f = Flatten (p)  y = MatMul (f, u) }}""",
    "averaged": f"""({X}) => (float[N,5] y) <{W}, float[5,6] u, float[5] e>
        {{ a = Conv (x, w, b)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)
           y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, u, e) }}""",
    "average_beside_padding": f"""({X}) => (float[N,4,6,6] y) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)
           p = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (r)  y = Conv (p, v, c) }}""",
    "chain": f"""({X}) => (float[N,3,6,6] y) <{W}, float[3,4,1,1] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  d = Conv (r, v, b2)  s = Relu (d)  y = Conv (s, u) }}""".replace(
        "float[4] c", "float[4] b2 = {90, 90, 90, 90}"
    ),
}

REFUSALS = {
    "padded_reader": (
        f"""({X}) => (float[N,4,6,6] y) <{W}, float[4,6,3,3] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv <pads = [1,1,1,1]> (r, u) }}""",
        "pads with zeros",
    ),
    "padded_by_name": (
        f"""({X}) => (float[N,4,6,6] y) <{W}, float[4,6,3,3] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv <auto_pad = "SAME_UPPER"> (r, u) }}""",
        "pads with zeros",
    ),
    "average_over_padding": (
        f"""({X}) => (float[N,4,6,6] y) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)
           p = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (r)
           y = Conv (p, v, c) }}""",
        "would see the change",
    ),
    "transposed": (
        f"""({X}) => (float[N,4,8,8] y) <{W}, float[6,4,3,3] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = ConvTranspose (r, u) }}""",
        "another number of taps",
    ),
    "added": (
        f"""({X}, float[N,6,6,6] z) => (float[N,4,6,6] y) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  s = Add (r, z)  y = Conv (s, v, c) }}""",
        "Add Add_s would see the change",
    ),
    "read_before_the_relu": (
        f"""({X}) => (float[N,4,6,6] y, float[N,6,6,6] z) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c)  z = Neg (a) }}""",
        "second reader",
    ),
    "output_in_between": (
        f"""({X}) => (float[N,4,6,6] y, float[N,6,6,6] r) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c) }}""",
        "is an output of the model",
    ),
    "low_bias": (
        f"""({X}) => (float[N,4,6,6] y) <{W}> {{ a = Conv (x, w)  r = Relu (a)  y = Conv (r, v, c) }}""",
        "none of its channels is always above 0",
    ),
    "tokens": (
        """(float[N,7,5] x) => (float[N,7,3] y) <float[5,6] w, float[6,3] u>
        { a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, u) }""",
        "more than two dimensions",
    ),
}


def data(graph: Graph | str) -> np.ndarray:
    graph = graph_from(graph) if isinstance(graph, str) else graph
    shape = [12, *graph.inputs[0].shape[1:]]
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def absorbed(text: str, **options: object) -> Ran:
    return run_pass("absorb-bias", text, data=data(text), **options)


@pytest.mark.parametrize("case", MOVED)
def test_moves(case: str, golden) -> None:
    ran = absorbed(MOVED[case])
    assert ran.result.status == "verified"
    assert ran.result.facts["absorbed"]["error"] < 1e-5
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    inputs = {t.name: data(text) for t in graph_from(text).inputs}
    if "z" in inputs:
        inputs["z"] = np.zeros((12, 6, 6, 6), np.float32)
    ran = run_pass("absorb-bias", text, data=inputs)
    assert any(reason in r for r in ran.reasons), ran.reasons
    assert ran.result.status == "unchanged"


def activations(graph: Graph, images: np.ndarray) -> np.ndarray:
    twin = graph.copy()
    twin.outputs = [next(n for n in twin.nodes if n.op == "Relu").outputs[0]]
    return next(iter(open_graph(twin).run({"x": images}).values()))


def test_activations_need_a_smaller_range() -> None:
    graph = graph_from(MOVED["conv"])
    images = data(graph)
    before = activations(graph, images)
    after = activations(absorbed(MOVED["conv"]).graph, images)
    assert after.max() < before.max() * 0.6
    # what always gets through moves down to where it starts; channels that are cut off stay
    np.testing.assert_allclose(after[:, [0, 1, 3, 4]].min((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_array_equal(after[:, 2], before[:, 2])


def test_three_deviations_below_the_mean() -> None:
    ran = absorbed(MOVED["conv"], bound="sigma")
    exact = absorbed(MOVED["conv"])
    largest = [r.result.facts["absorbed"]["largest"]["Relu_r"] for r in (ran, exact)]
    assert largest[0] != pytest.approx(largest[1], rel=1e-3)
    assert 0 < ran.result.facts["absorbed"]["error"] < 0.2


@pytest.mark.parametrize("bound", ["min", "sigma"])
def test_a_second_run_finds_nothing(bound: str) -> None:
    once = absorbed(MOVED["chain"], bound=bound)
    assert len(once.result.rewrites) == 2
    again = run_pass("absorb-bias", once.graph, data=data(once.graph), bound=bound)
    assert again.result.status == "unchanged"


def test_what_a_constant_contributes() -> None:
    graph = graph_from(MOVED["grouped"])
    conv = next(n for n in graph.nodes if n.attrs.get("group") == 2)
    constant = np.arange(1.0, 7.0)
    weight = conv.inputs[1].values.astype(np.float64)
    by_hand = [(weight[o].sum((1, 2)) * constant[3 * (o // 2) :][:3]).sum() for o in range(4)]
    np.testing.assert_allclose(contribution(conv, constant), by_hand)


def test_options_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="data=FOLDER"):
        run_pass("absorb-bias", MOVED["conv"])
    with pytest.raises(UsageError, match="min, sigma"):
        absorbed(MOVED["conv"], bound="max")


def test_a_network_without_candidates_needs_no_data() -> None:
    assert run_pass("absorb-bias", "(float[N,4] x) => (float[N,4] y) { y = Relu (x) }").ops == [
        "Relu"
    ]
