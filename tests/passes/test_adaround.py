"""adaround: errors of a row cancel on what the layer reads, and integers stay on their grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import graph_from
from rounding import cifar, kept

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, nodes_of
from graphopt.passes.quantize.pairs import pairs
from graphopt.passes.quantize.patches import (
    patches_at,
    positions_of,
    results_at,
    rows_of,
    weight_of,
)
from graphopt.passes.quantize.rounding_variables import RoundingVariables, undecided
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph

ALL = {"first": True, "last": True, "floor": 0.0, "cache": False, "weight": "int4"}
FEW = {"iterations": 300}
LAYERS = {
    "conv": """(float[N,4,9,8] x) => (float[N,6,4,6] y) <float[6,4,3,2] w, float[6] b>
        { y = Conv <pads = [1,0,0,1], strides = [2,1], dilations = [1,2]> (x, w, b) }""",
    "grouped": """(float[N,4,6,6] x) => (float[N,6,4,4] y) <float[6,2,3,3] w>
        { y = Conv <group = 2> (x, w) }""",
    "depthwise": """(float[N,4,6,6] x) => (float[N,4,6,6] y) <float[4,1,3,3] w>
        { y = Conv <group = 4, pads = [1,1,1,1]> (x, w) }""",
    "along_one_axis": """(float[N,4,9] x) => (float[N,6,7] y) <float[6,4,3] w>
        { y = Conv (x, w) }""",
    "gemm": """(float[N,6] x) => (float[N,5] y) <float[5,6] w, float[5] b>
        { y = Gemm <transB = 1> (x, w, b) }""",
    "gemm_as_it_is": """(float[N,6] x) => (float[N,5] y) <float[6,5] w> { y = Gemm (x, w) }""",
    "matmul": """(float[N,3,6] x) => (float[N,3,5] y) <float[6,5] w> { y = MatMul (x, w) }""",
}


def images(graph: Graph, count: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random((8, *graph.inputs[0].shape[1:])).astype(np.float32) for _ in range(count)]


def rounding(data: object, **options: object) -> list:
    return [
        pass_class("insert-fake-quant").with_options({"data": data, **ALL}),
        pass_class("adaround").with_options({"data": data, **FEW, **options}),
    ]


def chosen(graph: Graph, data: object = None, **options: object) -> Outcome:
    given = images(graph) if data is None else data
    return Pipeline(rounding(given, **options)).run(graph, strict=True)


def error(graph: Graph, exact: Graph, data: list) -> float:
    one, other = open_graph(graph), open_graph(exact)
    pairs_of = [(one.run({"x": b})["y"], other.run({"x": b})["y"]) for b in data]
    return float(np.mean([np.square(a - b).mean() for a, b in pairs_of]))


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_rows_is_the_layer(name: str) -> None:
    graph = graph_from(LAYERS[name])
    (node,) = graph.nodes
    x = images(graph)[0]
    y, weight = open_graph(graph).run({"x": x})["y"], node.inputs[1].values
    picked = np.random.default_rng(0).permutation(positions_of(node, y))[:20]
    patches = patches_at(node, x, weight.shape[2:], picked)
    rows = rows_of(node, weight)
    bias = (
        node.inputs[2].values if len(node.inputs) > 2 else np.zeros(rows.shape[0] * rows.shape[1])
    )
    made = patches @ rows.transpose(0, 2, 1) + bias.reshape(len(rows), 1, -1)
    np.testing.assert_allclose(made, results_at(node, y, picked), atol=1e-5)
    np.testing.assert_array_equal(weight_of(node, rows, weight.shape), weight)


@pytest.mark.parametrize("name", LAYERS)
def test_less_error_than_the_nearest_on_other_images(name: str) -> None:
    graph = graph_from(LAYERS[name], opset=21)
    data = images(graph)
    outcome = chosen(graph, data)
    nearest = Pipeline(rounding(data)[:1]).run(graph, strict=True).graph
    others = images(graph, seed=1)
    assert "of the error gone" in outcome.results[-1].rewrites[0].what
    assert error(outcome.graph, graph, others) < error(nearest, graph, others)


def test_what_the_nearest_gets_provably_wrong() -> None:
    """Inputs are all 1 and remainders 0.4 on average: 20 weights rounded down are wrong by 8 steps."""
    graph = graph_from(
        "(float[N,21] x) => (float[N,1] y) <float[1,21] w> { y = Gemm <transB = 1> (x, w) }",
        opset=21,
    )
    # Equal ones would move together for ever.
    weight = (1 + np.linspace(0.31, 0.49, 21)).astype(np.float32)[None]
    weight[0, 0] = 7
    graph.nodes[0].inputs[1].values = weight
    data = [np.ones((64, 21), np.float32)]
    outcome = chosen(graph, data)
    (pair,) = (p for p in pairs(outcome.graph) if p.is_weight)
    integers = pair.grid.quantize(pair.source.values).astype(int)
    assert abs(integers.sum() - weight.sum()) < 1.5  # to the nearest it is 8
    assert set(integers.reshape(-1)) == {1, 2, 7}


@pytest.mark.parametrize("name", LAYERS)
def test_integers_are_up_or_down_and_stored_as_they_are(name: str) -> None:
    graph = graph_from(LAYERS[name], opset=21)
    outcome = chosen(graph)
    (pair,) = (p for p in pairs(outcome.graph) if p.is_weight)
    grid, values = pair.grid, pair.source.values
    np.testing.assert_array_equal(grid.rounded(values), values)
    integers = grid.quantize(values).astype(int)
    scale, _ = grid._beside(values)
    assert np.abs(graph.nodes[0].inputs[1].values / scale - integers).max() < 1 + 1e-4
    stored = Pipeline([pass_class("quantize-constants")()]).run(outcome.graph, strict=True).graph
    (whole,) = (
        n.inputs[0].values
        for n in nodes_of(stored, "DequantizeLinear")
        if n.inputs[0].shape == values.shape
    )
    np.testing.assert_array_equal(whole.astype(int), integers)


CHAIN = """(float[N,4,7,7] x) => (float[N,4,7,7] y) <float[4,4,3,3] w, float[4] b, float[4,4,3,3] v>
    { a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)  y = Conv <pads = [1,1,1,1]> (r, v) }"""


def constants(graph: Graph) -> dict[str, bytes]:
    return {t.name: t.values.tobytes() for t in graph.tensors().values() if hasattr(t, "values")}


def test_repeats_itself_and_draws_from_the_seed() -> None:
    graph = graph_from(CHAIN, opset=21)
    one, other, third = (constants(chosen(graph, seed=s).graph) for s in (1, 1, 2))
    assert one == other
    assert one != third


def test_a_second_run_changes_nothing() -> None:
    graph = graph_from(CHAIN, opset=21)
    insert, adaround = rounding(images(graph))
    result = Pipeline([insert, adaround, adaround]).run(graph, strict=True).results[-1]
    assert result.status == "unchanged"
    assert "its weight is on its grid already" in {n.what for n in result.refusals}


def test_a_shared_weight_is_fitted_to_both_readers() -> None:
    graph = graph_from(
        "(float[N,4,5,5] x) => (float[N,4,5,5] y) <float[4,4,1,1] w, float[4] b>"
        " { a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, w) }",
        opset=21,
    )
    outcome = chosen(graph)
    first, second = nodes_of(outcome.graph, "Conv")
    assert first.inputs[1] is second.inputs[1]
    assert len(outcome.results[-1].rewrites) + len(outcome.results[-1].refusals) == 1


def test_who_else_reads_the_weight_keeps_it() -> None:
    graph = graph_from(
        "(float[N,16] x) => (float[N,4] y, float[16,4] z) <float[16,4] w> { y = Gemm (x, w)  z = Neg (w) }",
        opset=21,
    )
    outcome = chosen(graph)
    assert outcome.results[-1].rewrites
    (neg,) = nodes_of(outcome.graph, "Neg")
    np.testing.assert_array_equal(neg.inputs[0].values, graph.nodes[0].inputs[1].values)


def test_dead_channels_constant_images_and_one_image() -> None:
    graph = graph_from(CHAIN, opset=21)
    first = next(nodes_of(graph, "Conv"))
    weight = first.inputs[1].values.copy()
    weight[2], first.inputs[2].values = 0, np.array([0, 0, -5, 0], np.float32)
    first.inputs[1].values = weight
    for data in ([np.zeros((2, 4, 7, 7), np.float32)], images(graph)[:1], [images(graph)[0][:1]]):
        outcome = chosen(graph, data)
        assert all(np.isfinite(p.source.values).all() for p in pairs(outcome.graph) if p.is_weight)


@pytest.mark.parametrize(
    ("text", "reason", "target"),
    [
        (
            LAYERS["depthwise"].replace("pads = [1,1,1,1]", 'auto_pad = "SAME_UPPER"'),
            "padding itself",
            "a57",
        ),
        (
            """(float[N,4,5,5] x) => (float[N,6,7,7] y) <float[4,6,3,3] w> { y = ConvTranspose (x, w) }""",
            "overlap",
            "a57",
        ),
    ],
)
def test_refusals(text: str, reason: str, target: str) -> None:
    graph = graph_from(text, opset=21)
    insert, adaround = rounding(images(graph))
    wishes = {"data": images(graph), "target": target, "slower": "keep"}
    insert = type(insert).with_options({**wishes, **ALL})
    result = Pipeline([insert, adaround]).run(graph, strict=True).results[-1]
    assert not result.rewrites
    assert reason in result.refusals[0].what


def test_what_is_missing_is_said() -> None:
    graph = graph_from(CHAIN, opset=21)
    passes = [rounding(images(graph))[0], pass_class("adaround")()]
    with pytest.raises(UsageError, match="data=FOLDER"):
        Pipeline(passes).run(graph)
    with pytest.raises(UsageError, match="adaround must run before quantize-constants"):
        Pipeline(parse_passes("quantize-constants, adaround"))


def test_variables_start_at_the_weight_and_end_at_integers() -> None:
    weight = torch.tensor([[-1.3, 0.2, 0.5, 2.9, 9.0, 1.0]])
    variables = RoundingVariables(weight, torch.tensor([[0.5]]), -7, 7)
    expected = torch.tensor([[-1.3, 0.2, 0.5, 2.9, 3.5, 1.0]])
    torch.testing.assert_close(variables.weight(variables.up()), expected)
    assert variables.integers().tolist() == [[-3, 0, 1, 6, 7, 2]]
    half, sure = torch.full((3,), 0.5), torch.tensor([0.0, 1.0, 1.0])
    assert undecided(half, 0.0) == 3
    assert undecided(sure, 1.0) == 0


@pytest.mark.parametrize(
    ("name", "gain"), [("cifar10_resnet20_bn", 0.3), ("mlperf_tiny_resnet8_bn", 1.0)]
)
def test_real_models(name: str, gain: float, assets: Path) -> None:
    graph, calibration, others = cifar(name, assets)
    settings = {"data": calibration, "cache": False}
    insert = pass_class("insert-fake-quant").with_options(settings)
    adaround = pass_class("adaround").with_options({"data": calibration, "iterations": 300})
    before = Pipeline([insert]).run(graph, strict=True).graph
    after = Pipeline([insert, adaround]).run(graph, strict=True).graph
    assert kept(after, graph, others) > kept(before, graph, others) + gain
