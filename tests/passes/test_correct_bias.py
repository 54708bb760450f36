"""correct-bias: the means of channels are what they were before rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from rounding import cifar, kept

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, input_value, nodes_of, value_of
from graphopt.passes.quantize.walk import Walk, piece_of, waves
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph

ALL = {"first": True, "last": True, "floor": 0.0, "cache": False, "weight": "int4"}
CHAIN = """(float[N,8,9,9] x) => (float[N,8,9,9] y)
    <float[8,1,3,3] d, float[8] b, float[8,8,1,1] w, float[8,1,3,3] e, float[8] c>
    { a = Conv <group = 8, pads = [1,1,1,1]> (x, d, b)  r = Relu (a)
      m = Conv (r, w)  s = Relu (m)  y = Conv <group = 8, pads = [1,1,1,1]> (s, e, c) }"""
IMAGES = [np.random.default_rng(k).random((4, 8, 9, 9)).astype(np.float32) for k in range(6)]


def chain(seed: int = 0) -> Graph:
    """Depthwise weights whose remainders are all rounded down, so that every channel's mean falls."""
    graph = graph_from(CHAIN, opset=21, seed=seed)
    rng = np.random.default_rng(seed)
    for node in nodes_of(graph, "Conv"):
        weight = node.inputs[1]
        steps = rng.integers(-2, 5, weight.values.shape) + 0.4
        steps.reshape(len(steps), -1)[:, 0] = 7.0  # which fixes the scale at 1/7 of it
        weight.values = (steps * 0.05).astype(np.float32)
    return graph


def mended(graph: Graph, data: object = IMAGES, **options: object) -> Outcome:
    insert = pass_class("insert-fake-quant").with_options({"data": data, **ALL})
    mend = pass_class("correct-bias").with_options({"data": data, **options})
    return Pipeline([insert, mend]).run(graph, strict=True)


def rounded(graph: Graph, data: object = IMAGES, **options: object) -> Graph:
    insert = pass_class("insert-fake-quant").with_options({"data": data, **ALL, **options})
    return Pipeline([insert]).run(graph, strict=True).graph


def feeds(data: list) -> list:
    return [{"x": b} for b in data]


def means(graph: Graph, data: list = IMAGES, name: str = "y") -> np.ndarray:
    runner = open_graph(graph)
    return np.concatenate([runner.run({"x": b})[name] for b in data]).mean((0, 2, 3))


def biases(graph: Graph) -> list[bytes | None]:
    found = [input_value(n, 2) for n in nodes_of(graph, "Conv", "Gemm")]
    return [None if b is None else b.tobytes() for b in found]


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, 0.15), ({"sequential": False}, 0.5), ({"mode": "analytic"}, 0.5)],
)
def test_means_come_back(options: dict, left: float) -> None:
    graph = chain()
    exact, before = means(graph), means(rounded(graph))
    outcome = mended(graph, **options)
    after = means(outcome.graph)
    assert np.abs(before - exact).max() > 0.05
    assert np.abs(after - exact).mean() < left * np.abs(before - exact).mean()
    assert (
        kept(outcome.graph, graph, feeds(IMAGES)) > kept(rounded(graph), graph, feeds(IMAGES)) + 3
    )
    assert outcome.results[-1].detail.startswith("rounded outputs keep")


def test_a_last_layer_is_exact_on_its_images() -> None:
    """Nothing follows it, so the means agree but for what rounding the result itself does."""
    graph = chain()
    outcome = mended(graph)
    conv = list(nodes_of(outcome.graph, "Conv"))[-1]
    outcome.graph.outputs = [conv.outputs[0]]
    found = means(outcome.graph, name=conv.outputs[0].name)
    np.testing.assert_allclose(found, means(graph), atol=2e-5)


def test_analytic_is_the_sum_over_taps() -> None:
    graph = graph_from(
        "(float[N,2,5,5] x) => (float[N,1,4,4] y) <float[1,2,2,2] w> { y = Conv (x, w) }", opset=21
    )
    images = [np.random.default_rng(0).random((2, 2, 5, 5)).astype(np.float32)]
    outcome = mended(graph, images, mode="analytic")
    (conv,) = nodes_of(outcome.graph, "Conv")
    pair = conv.inputs[1].inputs[0].inputs[0].inputs[0]
    weight = pair.inputs[0].values
    steps = np.clip(np.rint(weight / pair.inputs[1].values.reshape(-1, 1, 1, 1)), -7, 7)
    off = steps * pair.inputs[1].values.reshape(-1, 1, 1, 1) - weight
    expected = -(off.sum((2, 3)) @ images[0].mean((0, 2, 3)))
    np.testing.assert_allclose(conv.inputs[2].values, expected, rtol=1e-4)


def test_only_what_an_activation_lets_through_counts() -> None:
    """What is wrong far below 0, behind a Relu nobody sees; a plain mean would shift the rest."""
    graph = graph_from(
        "(float[N,1,4,4] x) => (float[N,1,4,4] y) <float[1,1,1,1] w, float[1,1,1,1] v>"
        " { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }",
        opset=21,
    )
    for node in nodes_of(graph, "Conv"):
        node.inputs[1].values = np.ones((1, 1, 1, 1), np.float32)
    data = np.random.default_rng(0).random((8, 1, 4, 4)).astype(np.float32)
    data[:, :, :2] = -10  # clipped to 0 by a grid that was calibrated on the rest
    given = rounded(graph, [np.abs(data) % 1.0])
    mend = pass_class("correct-bias").with_options({"data": [data]})
    outcome = Pipeline([mend]).run(given, strict=True)
    (first, _) = nodes_of(outcome.graph, "Conv")
    shift = input_value(first, 2)
    assert shift is None or np.abs(shift).max() < 0.01


@pytest.mark.parametrize("options", [{}, {"sequential": False}, {"mode": "analytic"}])
def test_a_second_run_changes_nothing(options: dict) -> None:
    insert = pass_class("insert-fake-quant").with_options({"data": IMAGES, **ALL})
    mend = pass_class("correct-bias").with_options({"data": IMAGES, **options})
    once = Pipeline([insert, mend]).run(chain(), strict=True)
    twice = Pipeline([insert, mend, mend]).run(chain(), strict=True)
    for one, other in zip(nodes_of(once.graph, "Conv"), nodes_of(twice.graph, "Conv"), strict=True):
        a, b = input_value(one, 2), input_value(other, 2)
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_repeats_itself() -> None:
    assert biases(mended(chain()).graph) == biases(mended(chain()).graph)


def test_a_missing_bias_is_made_and_others_stay_shared_with_nobody() -> None:
    graph = chain()
    first, middle, last = nodes_of(graph, "Conv")
    last.inputs[2] = first.inputs[2]
    before = first.inputs[2].values.copy()
    found = list(nodes_of(mended(graph).graph, "Conv"))
    assert all(input_value(n, 2) is not None for n in found)
    assert found[0].inputs[2] is not found[2].inputs[2]
    assert input_value(middle, 2) is None
    np.testing.assert_array_equal(first.inputs[2].values, before)


def test_dead_channels_and_constant_images() -> None:
    graph = chain()
    first = next(nodes_of(graph, "Conv"))
    weight = first.inputs[1].values.copy()
    weight[3] = 0
    first.inputs[1].values = weight
    data = [np.zeros((1, 8, 9, 9), np.float32)]
    for each in (IMAGES, data):
        outcome = mended(graph, each)
        values = [input_value(n, 2) for n in nodes_of(outcome.graph, "Conv")]
        assert all(v is None or np.isfinite(v).all() for v in values)


def test_one_image() -> None:
    graph = chain()
    data = [IMAGES[0][:1]]
    assert kept(mended(graph, data).graph, graph, feeds(data)) > kept(
        rounded(graph, data), graph, feeds(data)
    )


def test_a_weight_read_twice_gives_two_biases() -> None:
    graph = graph_from(
        "(float[N,4,5,5] x) => (float[N,4,5,5] y) <float[4,4,1,1] w>"
        " { a = Conv (x, w)  r = Relu (a)  y = Conv (r, w) }",
        opset=21,
    )
    data = [np.random.default_rng(0).random((4, 4, 5, 5)).astype(np.float32)]
    first, second = nodes_of(mended(graph, data).graph, "Conv")
    assert first.inputs[1] is second.inputs[1]
    assert not np.array_equal(first.inputs[2].values, second.inputs[2].values)


TOKENS = """(float[N,3,6] x) => (float[N,3,5] y) <float[6,4] w, float[4] b, float[4,5] v>
    { a = MatMul (x, w)  s = Add (a, b)  r = Relu (s)  y = MatMul (r, v) }"""


def test_a_matrix_product_is_corrected_in_the_addition_behind() -> None:
    graph = graph_from(TOKENS, opset=21)
    data = [np.random.default_rng(0).random((8, 3, 6)).astype(np.float32)]
    outcome = mended(graph, data)
    (addition,) = nodes_of(outcome.graph, "Add")
    before = next(nodes_of(graph, "Add"))
    assert outcome.graph.nodes != graph.nodes
    assert not np.array_equal(value_of(addition.inputs[1]), value_of(before.inputs[1]))
    assert [n.what for n in outcome.results[-1].refusals] == [
        "it has no bias, and nothing is added to its result"
    ]


def test_what_is_float_behind_something_rounded_is_corrected_too() -> None:
    graph = chain()
    insert = pass_class("insert-fake-quant").with_options(
        {"data": IMAGES, **ALL, "last": False, "first": True}
    )
    mend = pass_class("correct-bias").with_options({"data": IMAGES})
    outcome = Pipeline([insert, mend]).run(graph, strict=True)
    np.testing.assert_allclose(means(outcome.graph), means(graph), atol=2e-5)


REFUSALS = [({"mode": "guess"}, "empirical, analytic"), ({"data": None}, "data=FOLDER")]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_what_is_missing_is_said(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mended(chain(), **options)


def test_a_float_network_is_no_candidate() -> None:
    mend = pass_class("correct-bias").with_options({"data": IMAGES})
    assert Pipeline([mend]).run(chain(), strict=True).results[0].status == "unchanged"


def test_transposed_convolutions_have_no_analytic_mean() -> None:
    graph = graph_from(
        "(float[N,4,5,5] x) => (float[N,6,7,7] y) <float[4,3,3,3] w>"
        " { y = ConvTranspose <group = 2> (x, w) }",
        opset=21,
    )
    data = [np.random.default_rng(0).random((4, 4, 5, 5)).astype(np.float32)]
    insert = pass_class("insert-fake-quant").with_options({"data": data, "target": "a57", **ALL})
    for options, count in (({"mode": "analytic"}, 0), ({}, 1)):
        mend = pass_class("correct-bias").with_options({"data": data, **options})
        result = Pipeline([insert, mend]).run(graph, strict=True).results[-1]
        assert len(result.rewrites) == count
        assert len(result.refusals) == 1 - count


def test_what_makes_outputs_worse_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*arguments: object) -> object:
        return ((p, np.full(8, 9.0)) for p in arguments[-2])

    module = "graphopt.passes.quantize.correct_bias"
    monkeypatch.setattr(f"{module}.in_sequence", shifted)
    graph = chain()
    exact = mended(graph, sequential=False)
    fallen_back = mended(graph)
    assert biases(fallen_back.graph) == biases(exact.graph)
    (note,) = fallen_back.results[-1].refusals
    assert note.what.startswith("corrected layer after layer its outputs keep")
    monkeypatch.setattr(f"{module}.at_once", shifted)
    result = mended(graph).results[-1]
    assert result.status == "unchanged"
    assert len(result.refusals) == 2


def test_order() -> None:
    with pytest.raises(UsageError, match="correct-bias must run before quantize-constants"):
        Pipeline(parse_passes("quantize-constants, correct-bias"))
    with pytest.raises(UsageError, match="correct-bias must run after adaround"):
        Pipeline(parse_passes("correct-bias, adaround"))


# --- the walk -------------------------------------------------------------------------------------


def test_a_walk_sees_what_a_run_sees() -> None:
    graph = rounded(chain())
    convs = list(nodes_of(graph, "Conv"))
    wanted = [n.outputs[0].name for n in convs]
    whole = open_graph(piece_of(graph, ["x"], wanted))
    walk = Walk(graph, [[n.inputs[0].name] for n in convs], feeds(IMAGES))
    for name in wanted:
        walk.advance()
        for values, batch in zip(walk.values([name]), IMAGES, strict=True):
            np.testing.assert_array_equal(values[name], whole.run({"x": batch})[name])


def test_a_walk_leaves_out_batches_it_has_no_room_for() -> None:
    graph = rounded(chain())
    stops = [[n.inputs[0].name] for n in nodes_of(graph, "Conv")]
    walk = Walk(graph, stops, feeds(IMAGES), memory=3 * IMAGES[0].size)  # held as bytes
    walk.advance()
    assert walk.batches == 3
    assert len(list(walk.values(stops[0]))) == 3


def test_waves_hold_what_does_not_depend_on_each_other() -> None:
    graph = graph_from(
        "(float[N,2,5,5] x) => (float[N,4,5,5] y) <float[2,2,1,1] w, float[2,2,1,1] v, float[2,2,1,1] u>"
        " { a = Conv (x, w)  b = Conv (x, v)  c = Conv (b, u)  y = Concat <axis = 1> (a, c) }"
    )
    found = waves(graph, list(nodes_of(graph, "Conv")))
    assert [[n.outputs[0].name for n in wave] for wave in found] == [["a", "b"], ["c"]]


# --- real models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gain"), [("cifar10_resnet20_bn", 0.0), ("mlperf_tiny_resnet8_bn", 1.0)]
)
def test_real_models(name: str, gain: float, assets: Path) -> None:
    graph, calibration, others = cifar(name, assets)
    insert = pass_class("insert-fake-quant").with_options({"data": calibration, "cache": False})
    mend = pass_class("correct-bias").with_options({"data": calibration})
    before = Pipeline([insert]).run(graph, strict=True).graph
    after = Pipeline([insert, mend]).run(graph, strict=True).graph
    assert kept(after, graph, others) > kept(before, graph, others) + gain
