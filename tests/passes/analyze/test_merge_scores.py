"""From scores of layers to scores of units."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import ModelError, UsageError
from graphopt.passes.analyze import NORMALIZATIONS, REDUCTIONS, Rating, scores
from graphopt.passes.analyze.merge import merge, normalized
from graphopt.passes.analyze.places import Place

RESIDUAL = """(float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[3,1,1,1] w = {1.0, 2.0, 3.0}, float[3,3,1,1] u = {1.0,0.0,0.0, 0.0,5.0,0.0, 0.0,0.0,3.0},
     float[3,3,1,1] t = {4.0,0.0,0.0, 0.0,4.0,0.0, 0.0,0.0,4.0}, float[1,3,1,1] v>
    { a = Conv (x, w)  b = Conv (a, u)  s = Add (a, b)  c = Conv (s, t)  z = Add (s, c)  y = Conv (z, v) }"""


def residual() -> Channels:
    return Channels(graph_from(RESIDUAL))


def rating(units: list[int], values: list[float]) -> Rating:
    return Rating(Place("layer", "output", None, None, 0, np.array(units)), np.array(values))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sum", [6, 11, 10]),
        ("mean", [2, 11 / 3, 10 / 3]),
        ("max", [4, 5, 4]),
        ("or", [4, 5, 4]),
        ("vote", [1, 4, 3]),
    ],
)
def test_coupled_layers_merge(how: str, expected: list[float]) -> None:
    found = scores(residual(), "l1", merge=how, normalize="none")
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1, 2, 5]),
        ("mean", [3 / 8, 6 / 8, 15 / 8]),
        ("max", [0.2, 0.4, 1]),
        ("minmax", [0, 0.25, 1]),
        ("l2", np.array([1, 2, 5]) / np.sqrt(30)),
        ("gaussian", (np.array([1, 2, 5]) - 8 / 3) / np.std([1, 2, 5])),
        ("rank", [1 / 3, 2 / 3, 1]),
    ],
)
def test_layers_are_normalized(how: str, expected: list[float]) -> None:
    assert normalized(np.array([1.0, 2, 5]), how) == pytest.approx(expected)


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_equal_scores_stay_equal_and_finite(how: str) -> None:
    for value in (0.0, 3.0):
        found = normalized(np.full(4, value), how)
        assert np.isfinite(found).all()
        assert np.ptp(found) == 0


def test_tied_ranks_are_shared() -> None:
    assert normalized(np.array([1.0, 1, 2]), "rank") == pytest.approx([0.5, 0.5, 1])


@pytest.mark.parametrize("threshold", np.linspace(0, 1, 11))
def test_votes_and_or_are_right_at_every_threshold(threshold: float) -> None:
    rng = np.random.default_rng(0)
    layers = rng.random((5, 8))
    member = rng.random((5, 8)) < 0.7
    member[0] = True
    ratings = [
        rating(np.flatnonzero(m).tolist(), s[m].tolist())
        for s, m in zip(layers, member, strict=True)
    ]
    keeps = (layers > threshold) & member
    voted = merge(ratings, 8, reduce="vote") > threshold
    assert (voted == (keeps.sum(0) >= member.sum(0) / 2)).all()
    assert ((merge(ratings, 8, reduce="or") > threshold) == keeps.any(0)).all()


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [1.5, 4]), ("sum", [3, 8]), ("max", [2, 5]), ("or", [2, 5]), ("vote", [1.5, 5])],
)
def test_a_layer_counts_once_for_a_unit(how: str, expected: list[float]) -> None:
    several = [rating([0, 0, 1, -1], [1, 2, 3, 9]), rating([1], [5])]
    assert merge(several, 2, reduce=how).tolist() == expected


def test_units_nobody_rates_have_no_score() -> None:
    for how in REDUCTIONS:
        assert np.isnan(merge([rating([0, 2], [1, 2])], 4, reduce=how)).tolist() == [
            False,
            True,
            False,
            True,
        ]
        assert merge([], 0, reduce=how).shape == (0,)


def test_positions_behind_a_flatten_merge() -> None:
    graph = graph_from("""(float[1,1,2,2] x) => (float[1,1] y)
        <float[2,1,1,1] w, float[8,1] v = {1.0,1.0,1.0,1.0, 2.0,0.0,0.0,0.0}>
        { a = Conv (x, w)  f = Flatten (a)  y = MatMul (f, v) }""")
    found = scores(Channels(graph), "l1{sides=input}", normalize="none")
    assert found == pytest.approx([1, 0.5])


def test_a_shared_weight_counts_once() -> None:
    graph = graph_from("""(float[1,2,2,2] x, float[1,2,2,2] z) => (float[1,2,2,2] y, float[1,2,2,2] t)
        <float[2,2,1,1] w = {1.0, 0.0, 0.0, 2.0}, float[2,2,1,1] v>
        { a = Conv (x, w)  y = Conv (a, v)  b = Conv (z, w)  t = Conv (b, v) }""")
    assert scores(Channels(graph), "l1", merge="sum", normalize="none").tolist() == [1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "lamp"])
def test_scores_that_are_no_numbers_name_the_layer(importance: str, value: float) -> None:
    graph = graph_from(RESIDUAL)
    broken = graph.tensors()["u"].values.copy()
    broken[1, 0] = value
    graph.tensors()["u"].values = broken
    layer = next(n for n in graph.nodes if n.outputs[0].name == "b")
    text = f"layer '{layer.name or 'b'}': {importance} scores of . of its 3 channels are NaN or infinite.*'u'"
    with pytest.raises(ModelError, match=text):
        scores(Channels(graph), importance)


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(UsageError, match="merge='median' is none of sum, mean"):
        scores(residual(), "l1", merge="median")
    with pytest.raises(UsageError, match="normalize='mode' is none of none, mean"):
        scores(residual(), "l1", normalize="mode")
