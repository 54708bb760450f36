"""smooth: outliers move from activations to weights, nothing else changes, refusals say why."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from
from rounding import kept

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, nodes_of
from graphopt.oracle import Oracle
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class

X = "float[N,5,8] x"
SMOOTHED = {
    "layer_norm": f"""({X}) => (float[N,5,4] y) <float[8] g, float[8] h, float[8,4] w>
        {{ n = LayerNormalization (x, g, h)  y = MatMul (n, w) }}""",
    "without_offset": f"""({X}) => (float[N,5,4] y) <float[8] g, float[8,4] w>
        {{ n = LayerNormalization (x, g)  y = MatMul (n, w) }}""",
    "three_readers": f"""({X}) => (float[N,5,4] y, float[N,5,3] z, float[N,5,4] u)
        <float[8] g, float[8] h, float[8,4] w, float[8,3] v>
        {{ n = LayerNormalization (x, g, h)  y = MatMul (n, w)  z = MatMul (n, v)  u = MatMul (n, w) }}""",
    "multiplied": f"""({X}) => (float[N,5,4] y) <float[8] g, float[8,4] w>
        {{ n = Mul (g, x)  y = MatMul (n, w) }}""",
    "multiplied_by_a_number": f"""({X}) => (float[N,5,4] y) <float g = {{3.0}}, float[8,4] w>
        {{ n = Mul (x, g)  y = MatMul (n, w) }}""",
    "linear": f"""({X}) => (float[N,5,4] y) <float[8,6] u, float[6] b, float[6,4] w>
        {{ m = MatMul (x, u)  n = Add (m, b)  y = MatMul (n, w) }}""",
    "three_in_a_row": f"""({X}) => (float[N,5,4] y) <float[8,6] u, float[6,7] v, float[7,4] w>
        {{ m = MatMul (x, u)  n = MatMul (m, v)  y = MatMul (n, w) }}""",
    "gemm": """(float[N,8] x) => (float[N,4] y) <float[6,8] u, float[6] b, float[4,6] w, float[4] c>
        { n = Gemm <transB = 1> (x, u, b)  y = Gemm <transB = 1> (n, w, c) }""",
    "convs": """(float[N,3,6,6] x) => (float[N,4,4,4] y, float[N,6,4,4] z, float[N,4,8,8] t)
        <float[6,3,1,1] u, float[6] b, float[4,3,3,3] w, float[6,1,3,3] v, float[6,2,3,3] o>
        { n = Conv (x, u, b)  y = Conv <group = 2> (n, w)  z = Conv <group = 6> (n, v)
          t = ConvTranspose <group = 2> (n, o) }""",
    "batch_norm": """(float[N,3,6,6] x) => (float[N,4,6,6] y)
        <float[3] g, float[3] h, float[3] m, float[3] var, float[4,3,1,1] w>
        { n = BatchNormalization (x, g, h, m, var)  y = Conv (n, w) }""",
}
REFUSALS = {
    "residual": (
        f"""({X}) => (float[N,5,8] y) <float[8] g, float[8,8] w>
        {{ n = LayerNormalization (x, g)  m = MatMul (n, w)  y = Add (n, m) }}""",
        "read by Add",
    ),
    "output": (
        f"""({X}) => (float[N,5,4] y, float[N,5,8] n) <float[8] g, float[8,4] w>
        {{ n = LayerNormalization (x, g)  y = MatMul (n, w) }}""",
        "'n' is an output of the model",
    ),
    "attention": (
        f"""({X}) => (float[N,5,4] y, float[N,5,5] z) <float[8] g, float[8,4] w>
        {{ n = LayerNormalization (x, g)  y = MatMul (n, w)  t = Transpose <perm = [0,2,1]> (n)
           z = MatMul (n, t) }}""",
        "read by Transpose",
    ),
    "computed_weight": (
        f"""({X}, float[8,3] v) => (float[N,5,4] y, float[N,5,3] z) <float[8] g, float[8,4] w>
        {{ n = LayerNormalization (x, g)  y = MatMul (n, w)  z = MatMul (n, v) }}""",
        "no constant matrix",
    ),
    "over_two_axes": (
        f"""({X}) => (float[N,5,4] y) <float[5,8] g, float[8,4] w>
        {{ n = LayerNormalization <axis = 1> (x, g)  y = MatMul (n, w) }}""",
        "does not normalize along the channels",
    ),
    "other_axis": (
        """(float[N,3,6,6] x) => (float[N,4,6,6] y) <float[6] g, float[4,3,1,1] w>
        { n = LayerNormalization (x, g)  y = Conv (n, w) }""",
        "does not normalize along the channels",
    ),
    "computed_scale": (
        f"""({X}, float[8] g) => (float[N,5,4] y) <float[8,4] w>
        {{ n = LayerNormalization (x, g)  y = MatMul (n, w) }}""",
        "no constant scale",
    ),
    "shared_maker": (
        """(float[N,8] x, float[N,8] z) => (float[N,4] y, float[N,8] t) <float[8,8] u, float[8,4] w>
        { n = MatMul (x, u)  y = MatMul (n, w)  t = MatMul (z, u) }""",
        "is a shared weight",
    ),
    "added_to_twice": (
        f"""({X}) => (float[N,5,4] y, float[N,5,6] z) <float[8,6] u, float[6] b, float[6,4] w>
        {{ m = MatMul (x, u)  n = Add (m, b)  y = MatMul (n, w)  z = Neg (m) }}""",
        "has a second reader",
    ),
}


def uneven(graph: Graph, seed: int = 1) -> Graph:
    """Makes channels a hundredfold larger than others, in whatever makes them."""
    rng = np.random.default_rng(seed)
    node = graph.nodes[0]
    weight = next(t for t in node.inputs[::-1] if hasattr(t, "values") and t.values.size > 1)
    for tensor in [weight] if weight.values.ndim > 1 or len(node.inputs) < 3 else node.inputs[1:3]:
        axis = {"MatMul": -1, "Gemm": 0, "Conv": 0}.get(node.op, -1)
        shape = [1] * tensor.values.ndim
        shape[axis] = -1
        by = 10 ** rng.uniform(-1, 1, tensor.values.shape[axis])
        tensor.values = (tensor.values * by.reshape(shape)).astype(np.float32)
    return graph


def images(graph: Graph, count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            t.name: rng.standard_normal([d if isinstance(d, int) else 4 for d in t.shape]).astype(
                np.float32
            )
            for t in graph.inputs
        }
        for _ in range(count)
    ]


def smoothed(graph: Graph, times: int = 1, **options: object) -> Outcome:
    each = pass_class("smooth").with_options({"data": images(graph), **options})
    return Pipeline([each] * times).run(graph, oracle=Oracle(graph), strict=True)


@pytest.mark.parametrize("name", SMOOTHED)
def test_smooths_and_computes_the_same(name: str) -> None:
    text = SMOOTHED[name]
    graph = graph_from(text)
    if name != "multiplied_by_a_number":
        uneven(graph)
    else:
        graph.nodes[1].inputs[1].values = (
            graph.nodes[1].inputs[1].values * np.geomspace(0.1, 10, 8, dtype=np.float32)[:, None]
        )
    outcome = smoothed(graph, times=2)
    assert outcome.results[0].status == "verified", outcome.results[0]
    assert outcome.results[1].status == "unchanged", outcome.results[1].rewrites
    assert outcome.final is not None
    assert outcome.final.passed


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    text, reason = REFUSALS[name]
    result = smoothed(graph_from(text)).results[0]
    assert any(reason in note.what for note in result.refusals), result.refusals
    assert result.status == "unchanged"


def test_the_scale_is_the_papers() -> None:
    graph = uneven(graph_from(SMOOTHED["layer_norm"]))
    norm, product = graph.nodes
    gamma, weight = norm.inputs[1].values, product.inputs[1].values
    data = images(graph)
    flat = np.concatenate([f["x"].reshape(-1, 8) for f in data])
    normal = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
    peaks = np.abs(normal * gamma + norm.inputs[2].values).max(0)
    scale = peaks**0.5 / np.abs(weight).max(1) ** 0.5
    result = smoothed(graph).graph
    np.testing.assert_allclose(result.nodes[0].inputs[1].values, gamma / scale, rtol=1e-4)
    np.testing.assert_allclose(result.nodes[1].inputs[1].values, weight * scale[:, None], rtol=1e-4)


def test_less_is_lost_by_rounding() -> None:
    graph = graph_from(
        f"""({X}) => (float[N,5,4] y) <float[8,8] o, float[8] g, float[8] h, float[8,4] w>
        {{ a = MatMul (x, o)  n = LayerNormalization (a, g, h)  y = MatMul (n, w) }}"""
    )
    norm = graph.nodes[1]
    norm.inputs[1].values = np.array([1, 1, 1, 300, 1, 1, 1, 1], np.float32)
    weight = graph.nodes[2].inputs[1]
    weight.values = weight.values / norm.inputs[1].values[:, None]
    data = images(graph)
    insert = pass_class("insert-fake-quant").with_options(
        {"data": data, "first": True, "last": True, "floor": 0.0, "cache": False}
    )
    plain = Pipeline([insert]).run(graph, strict=True).graph
    better = Pipeline([insert]).run(smoothed(graph).graph, strict=True).graph
    assert kept(better, graph, data) > kept(plain, graph, data) + 6


def test_dead_channels_and_outliers_beyond_sense_are_left_alone() -> None:
    graph = graph_from(SMOOTHED["layer_norm"])
    norm, product = graph.nodes
    norm.inputs[1].values = np.array([0, 1, 1, 1, 1, 1e-20, 1, 1], np.float32)
    norm.inputs[2].values = np.zeros(8, np.float32)
    weight = product.inputs[1].values.copy()
    weight[1] = 0
    product.inputs[1].values = weight
    after = smoothed(graph).graph.nodes[0].inputs[1].values
    np.testing.assert_array_equal(after[[0, 1, 5]], norm.inputs[1].values[[0, 1, 5]])
    assert np.isfinite(after).all()


def test_readers_keep_one_weight() -> None:
    result = smoothed(uneven(graph_from(SMOOTHED["three_readers"]))).graph
    first, _, third = nodes_of(result, "MatMul")
    assert first.inputs[1] is third.inputs[1]


def test_what_is_no_candidate_is_not_mentioned() -> None:
    graph = graph_from(
        f"({X}) => (float[N,5,4] y) <float[8,4] w> {{ r = Relu (x)  y = MatMul (r, w) }}"
    )
    result = smoothed(graph).results[0]
    assert result.status == "unchanged"
    assert not result.refusals


def test_what_is_missing_is_said() -> None:
    graph = graph_from(SMOOTHED["layer_norm"])
    for options, message in (({"alpha": 1.5}, "between 0 and 1"), ({"data": None}, "data=FOLDER")):
        with pytest.raises(UsageError, match=message):
            smoothed(graph, **options)
    with pytest.raises(UsageError, match="smooth must run before insert-fake-quant"):
        Pipeline(parse_passes("insert-fake-quant, smooth"))
