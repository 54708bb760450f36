"""Importances that take gradients, against their equations on small networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import ModelError, UsageError
from graphopt.passes.analyze import Evidence, scores

MLP = """(float[N,2] x) => (float[N,1] y) <float[2,3] w = {1.0, 2.0, 3.0, -1.0, 0.0, 1.0}, float[3,1] v>
    { h = MatMul (x, w)  y = MatMul (h, v) }"""
W = np.float32([[1, 2, 3], [-1, 0, 1]])
G = np.float32([[1, 1, 0], [2, 5, -2]])  # g * w = [[1, 2, 0], [-2, 0, -2]]
H = np.float32([[2, 1, 0], [4, 5, 6]])


def mlp() -> Channels:
    return Channels(graph_from(MLP))


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("taylor", [5, 4, 4]),
        ("taylor{form=gate}", [1, 4, 4]),
        ("taylor{form=abs}", [3, 2, 2]),
        ("obd", [2.5, 2, 2]),
    ],
)
def test_values(importance: str, expected: list[float]) -> None:
    assert scores(mlp(), importance, gradients={"w": G}) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("taylor", [(5 + 20) / 2, (4 + 16) / 2, (4 + 16) / 2]),
        ("taylor{form=gate}", [(1 + 4) / 2, (4 + 16) / 2, (4 + 16) / 2]),
        ("obd", [(5 + 20) / 4, (4 + 16) / 4, (4 + 16) / 4]),
    ],
)
def test_the_mean_over_samples(importance: str, expected: list[float]) -> None:
    one_by_one = [{"w": G}, {"w": -2 * G}]
    at_once = {"w": np.stack([G, -2 * G])}
    assert scores(mlp(), importance, gradients=one_by_one) == pytest.approx(expected)
    assert scores(mlp(), importance, gradients=at_once) == pytest.approx(expected)
    assert scores(mlp(), importance, gradients=iter(one_by_one)) == pytest.approx(expected)


def test_obd_from_a_hessian() -> None:
    found = scores(mlp(), "obd", hessian={"w": H})
    assert found == pytest.approx(((H * W**2) / 2).sum(0))


def test_the_gradient_of_a_turned_weight_is_turned() -> None:
    text = """(float[N,2] x) => (float[N,1] y) <float[3,2] t = {1.0, -1.0, 2.0, 0.0, 3.0, 1.0}, float[3,1] v>
        { w = Transpose <perm = [1,0]> (t)  h = Gemm (x, w)  y = MatMul (h, v) }"""
    found = scores(Channels(graph_from(text)), "taylor", gradients={"t": G.T})
    assert found == pytest.approx([5, 4, 4])


RESIDUAL = """(float[1,2,3,3] x) => (float[1,1,3,3] y, float[1,1,3,3] z)
    <float[3,2,1,1] w, float[3,3,1,1] u, float[1,3,1,1] v, float[1,3,1,1] q>
    { a = Conv (x, w)  b = Conv (a, u)  s = Add (a, b)  y = Conv (s, v)  z = Conv (a, q) }"""


def residual_gradients(
    graph: Any, x: np.ndarray[Any, Any], gy: np.ndarray[Any, Any], gz: np.ndarray[Any, Any]
) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Of L = sum(gy * y) + sum(gz * z) for 1x1 convolutions: by weight, and by masks on what reads."""
    w, u, v, q = (graph.tensors()[n].values[:, :, 0, 0].astype(np.float64) for n in "wuvq")
    x, gy, gz = (t.reshape(t.shape[1], -1).astype(np.float64) for t in (x, gy, gz))
    a = w @ x
    s = a + u @ a
    gs = v.T @ gy
    by_weight = {"u": gs @ a.T, "v": gy @ s.T, "q": gz @ a.T}
    masks = (a * (u.T @ gs)).sum(1) + (s * gs).sum(1) + (a * (q.T @ gz)).sum(1)
    return {n: g[:, :, None, None] for n, g in by_weight.items()}, masks


def test_group_fisher_is_the_squared_gradient_of_a_mask() -> None:
    graph = graph_from(RESIDUAL)
    rng = np.random.default_rng(0)
    expected, gradients = np.zeros(3), []
    for _ in range(4):
        draw = [rng.standard_normal((1, c, 3, 3)) for c in (2, 1, 1)]
        by_weight, masks = residual_gradients(graph, *draw)
        gradients.append(by_weight)
        expected += masks**2
    channels = Channels(graph)
    assert channels.unit_count == 3
    found = scores(channels, "group-fisher{cost=none}", gradients=gradients)
    assert found == pytest.approx(expected, rel=1e-6)
    # w and u make 9 elements each; MACs: w 2 in, u 3 in and 3 out, v and q 1 out, at 9 positions
    by_memory = scores(channels, "group-fisher", gradients=gradients)
    assert by_memory == pytest.approx(expected / 18, rel=1e-6)
    by_macs = scores(channels, "group-fisher{cost=macs}", gradients=gradients)
    assert by_macs == pytest.approx(expected / (9 * (2 + 6 + 2)), rel=1e-6)


def test_group_fisher_reads_depthwise_and_grouped_layers_at_their_only_side() -> None:
    graph = graph_from("""(float[1,1,3,3] x) => (float[1,2,1,1] y)
        <float[4,1,1,1] w, float[4,1,3,3] d, float[2,4,1,1] v>
        { a = Conv (x, w)  b = Conv <group = 4> (a, d)  y = Conv (b, v) }""")
    gates = Evidence(Channels(graph)).gates()
    assert [g.tensor.name for g in gates] == ["v", "d"]
    assert [g.role for g in gates] == ["input", "output"]


def test_group_fisher_merges_in_its_own_way() -> None:
    with pytest.raises(UsageError, match="inside the square"):
        scores(mlp(), "group-fisher", gradients={"v": np.ones((3, 1))}, merge="max")


ALL = ["taylor", "obd", "group-fisher"]


@pytest.mark.parametrize("importance", ALL)
def test_gradients_are_asked_for(importance: str) -> None:
    with pytest.raises(UsageError, match=f"'{importance}' needs gradients: give images"):
        scores(mlp(), importance)
    with pytest.raises(UsageError, match="gradients= is empty"):
        scores(mlp(), importance, gradients=[])


def test_a_misspelt_name_has_near_misses() -> None:
    graph = graph_from(MLP.replace(" w", " fc1_weight").replace("(x, w)", "(x, fc1_weight)"))
    with pytest.raises(UsageError, match="no gradient of 'fc1_weight'.*did you mean fc1.weight"):
        scores(Channels(graph), "taylor", gradients={"fc1.weight": G})


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"gradient of 'w' has shape \(3, 2\); the constant has \(2, 3\)"
    ):
        scores(mlp(), "taylor", gradients={"w": G.T})


def test_an_iterator_is_read_once() -> None:
    with pytest.raises(UsageError, match="were read already: give a list"):
        scores(mlp(), "taylor+obd", gradients=iter([{"w": G}]))


@pytest.mark.parametrize("importance", ALL)
def test_nan_gradients_name_the_layer(importance: str) -> None:
    nan = {"w": np.full((2, 3), np.nan), "v": np.full((3, 1), np.nan)}
    with pytest.raises(ModelError, match=f"layer '.+': {importance} scores"):
        scores(mlp(), importance, gradients=nan)
