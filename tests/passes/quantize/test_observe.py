"""Histograms and the ranges chosen from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.grid import KINDS, grid_for
from graphopt.passes.quantize.observe import METHODS, calibrate, observe, range_of
from graphopt.passes.quantize.observe.curves import Curve, hard_swish, mish, sigmoid, silu
from graphopt.passes.quantize.observe.histogram import BINS, Histogram
from graphopt.runtime.run import OrtRunner, open_graph

UINT8 = KINDS["uint8"]


def histogram_of(*batches: np.ndarray) -> Histogram:
    found = Histogram()
    for batch in batches:
        found.add(np.asarray(batch, np.float32))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.randoms())
def test_order_and_batches_do_not_matter(values: list[float], random: object) -> None:
    whole = histogram_of(np.array(values))
    random.shuffle(values)  # type: ignore[attr-defined]
    parts = histogram_of(*np.array_split(np.array(values), 1 + len(values) // 3))
    assert np.array_equal(whole.counts, parts.counts)
    assert (whole.low, whole.high, whole.radius) == (parts.low, parts.high, parts.radius)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32, allow_subnormal=False), min_size=1, max_size=60))
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    found = histogram_of(np.array(values[:5]), np.array(values[5:]))
    expected, _ = np.histogram(np.array(values, np.float32), found.edges())
    assert np.array_equal(found.counts, expected)
    assert found.total == len(values)


def test_memory_does_not_grow() -> None:
    found = Histogram()
    for k in range(20):
        found.add(np.full(1000, 2.0**k, np.float32))
    assert found.counts.nbytes == BINS * 8
    assert found.total == 20_000


def test_what_is_not_finite_is_counted_apart() -> None:
    found = histogram_of(np.array([1.0, np.nan, np.inf, -2.0]))
    assert (found.not_finite, found.total, found.low, found.high) == (2, 2, -2.0, 1.0)
    assert histogram_of(np.array([np.nan])).total == 0


def test_state_survives_storing() -> None:
    found = histogram_of(np.random.default_rng(0).standard_normal(1000), np.zeros(3))
    again = Histogram.from_state(found.state())
    assert np.array_equal(found.counts, again.counts)
    assert (found.low, found.mean_high, found.zeros) == (again.low, again.mean_high, again.zeros)


# --- ranges ---------------------------------------------------------------------------------------


def test_min_max_holds_everything() -> None:
    assert range_of("min-max", histogram_of(np.array([-3.0, 8.0])), UINT8, symmetric=False) == (
        -3.0,
        8.0,
    )


def test_moving_average_is_mild_on_one_wild_batch() -> None:
    found = histogram_of(*[np.array([-1.0, 1.0])] * 5, np.array([-101.0, 101.0]))
    low, high = range_of("moving-average", found, UINT8, symmetric=False)
    assert (low, high) == pytest.approx((-11.0, 11.0))


def test_percentile_is_that_of_the_values() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(100_000))
    found = range_of("percentile", histogram_of(values), UINT8, symmetric=False, percentile=99.0)
    assert found[0] == 0.0
    assert found[1] == pytest.approx(np.quantile(values, 0.99), rel=2e-3)


def test_percentile_cuts_both_ends_of_values_of_both_signs() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    low, high = range_of(
        "percentile", histogram_of(values), UINT8, symmetric=False, percentile=99.0
    )
    assert [low, high] == pytest.approx(np.quantile(values, [0.005, 0.995]), rel=5e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_no_worse_than_any_other_range(symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    values = rng.laplace(size=50_000).astype(np.float32)
    values[0] = 60.0

    def error(found: tuple[float, float]) -> float:
        grid = grid_for(*found, UINT8, symmetric=symmetric)
        return float(np.mean((grid.rounded(values) - values) ** 2))

    ours = error(range_of("mse", histogram_of(values), UINT8, symmetric=symmetric))
    for share in np.linspace(0.05, 1.0, 60):
        assert ours <= 1.02 * error((float(values.min()) * share, 60.0 * share))
    for method in METHODS:
        other = range_of(method, histogram_of(values), UINT8, symmetric=symmetric)
        assert ours <= 1.001 * error(other)


def test_entropy_drops_outliers_and_keeps_what_is_even() -> None:
    rng = np.random.default_rng(2)
    bell = np.abs(rng.standard_normal(200_000)).astype(np.float32)
    bell[:4] = 100.0
    _, high = range_of("entropy", histogram_of(bell), UINT8, symmetric=False)
    assert 2.5 < high < 20.0
    even = rng.uniform(0, 1, 200_000).astype(np.float32)
    _, high = range_of("entropy", histogram_of(even), UINT8, symmetric=False)
    assert high > 0.9


def test_exact_zeros_do_not_count_against_a_wide_range() -> None:
    values = np.abs(np.random.default_rng(3).standard_normal(10_000))
    without = histogram_of(values)
    with_zeros = histogram_of(values, np.zeros(1_000_000))
    for method in ("mse", "entropy"):
        assert range_of(method, without, UINT8, symmetric=False) == range_of(
            method, with_zeros, UINT8, symmetric=False
        )


def test_behind_an_activation_only_what_it_lets_pass_counts() -> None:
    values = np.concatenate([np.random.default_rng(4).uniform(-120, 0, 5000), np.linspace(0, 5)])
    found = histogram_of(values)
    assert range_of("mse", found, UINT8, symmetric=False)[0] < -60
    low, high = range_of("mse", found, UINT8, symmetric=False, curve=silu)
    assert -20 < low < -3
    assert high > 4.5


@pytest.mark.parametrize("curve", [silu, sigmoid, hard_swish, mish])
def test_mse_behind_an_activation_is_no_worse_than_any_other_range(curve: Curve) -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.uniform(-60, -8, 20_000), rng.standard_normal(20_000) * 3])
    values = values.astype(np.float32)

    def error(found: tuple[float, float]) -> float:
        grid = grid_for(*found, UINT8, symmetric=False)
        return float(np.mean((curve(grid.rounded(values)) - curve(values)) ** 2))

    found = histogram_of(values)
    ours = error(range_of("mse", found, UINT8, symmetric=False, curve=curve))
    for low in np.geomspace(0.3, 60, 25):
        for high in np.linspace(2, float(values.max()), 12):
            assert ours <= 1.05 * error((-low, high))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0] * 9, [5.0] * 9, [-5.0] * 9, [1e-30] * 9, [1e30, 0.0]])
def test_degenerate_values_give_a_range(method: str, values: list[float]) -> None:
    low, high = range_of(method, histogram_of(np.array(values)), UINT8, symmetric=False)
    assert low <= 0 <= high
    # One value many times is represented to half a step.
    grid = grid_for(low, high, UINT8, symmetric=False)
    assert grid.rounded(np.array(values[:1]))[0] == pytest.approx(values[0], rel=0.02, abs=1e-20)


def test_wrong_wishes_are_named() -> None:
    found = histogram_of(np.ones(3))
    with pytest.raises(UsageError, match="did you mean entropy"):
        range_of("entropi", found, UINT8, symmetric=False)
    with pytest.raises(UsageError, match="percentile=120"):
        range_of("percentile", found, UINT8, symmetric=False, percentile=120)


# --- over a network -------------------------------------------------------------------------------

NETWORK = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4,4,1,1] v>
    { a = Conv (x, w)  b = Relu (a)  y = Conv (b, v) }"""


def _data(count: int = 5) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_every_tensor_is_measured_in_one_pass() -> None:
    found = observe(graph_from(NETWORK), ["x", "a", "b"], _data())
    assert found.batches == 5
    assert found.histograms["b"].low == 0.0
    assert found.histograms["x"].total == 5 * 2 * 3 * 64
    assert found.histograms["b"].high == found.histograms["a"].high


def test_little_memory_means_several_passes_and_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []

    def counted(graph: Graph) -> OrtRunner:
        opened.append(len(graph.outputs))
        return open_graph(graph)

    monkeypatch.setattr(calibrate, "open_graph", counted)
    whole = observe(graph_from(NETWORK), ["a", "b", "y"], _data())
    parts = observe(graph_from(NETWORK), ["a", "b", "y"], _data(), memory=1)
    assert opened == [3, 1, 1, 1]
    for name, one in whole.histograms.items():
        assert np.array_equal(one.counts, parts.histograms[name].counts)


def test_no_images_is_an_error() -> None:
    with pytest.raises(UsageError, match="no calibration images"):
        observe(graph_from(NETWORK), ["a"], [])


def test_measurements_are_cached_under_model_and_data(tmp_path: Path) -> None:
    graph = graph_from(NETWORK)
    first = observe(graph, ["a"], _data(), cache=tmp_path)
    again = observe(graph, ["a"], _data(), cache=tmp_path)
    assert (first.from_cache, again.from_cache, again.batches) == (False, True, 5)
    assert np.array_equal(first.histograms["a"].counts, again.histograms["a"].counts)
    assert not observe(graph, ["a"], _data(4), cache=tmp_path).from_cache
    assert not observe(graph_from(NETWORK, seed=1), ["a"], _data(), cache=tmp_path).from_cache
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    assert not observe(graph, ["a"], _data(), cache=tmp_path).from_cache


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert observe(graph_from(NETWORK), ["a"], _data(), cache=tmp_path / "file" / "x").batches == 5
