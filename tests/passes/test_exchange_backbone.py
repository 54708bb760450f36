"""exchange-backbone: shapes, budget, what is left of the old one, and that it can be trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import graph_from

from graphopt.errors import BudgetError, UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.fx import parameters_before, to_fx
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.passes.distill.exchange_backbone import ExchangeBackbone
from graphopt.passes.distill.recover import Recover
from graphopt.pipeline import Pipeline
from graphopt.runtime.run import open_graph
from graphopt.zoo import build

DETECTOR = """(float[N,3,32,32] x) => (float[N,6,8,8] a, float[N,6,4,4] b)
    <float[16,3,3,3] w1, float[32,16,3,3] w2, float[64,32,3,3] w3, float[6,32,1,1] h2, float[6,64,1,1] h3>
    { c1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)  r1 = Relu (c1)
      c2 = Conv <pads = [1,1,1,1], strides = [2,2]> (r1, w2)  r2 = Relu (c2)
      c3 = Conv <pads = [1,1,1,1], strides = [2,2]> (r2, w3)  r3 = Relu (c3)
      a = Conv (r2, h2)  b = Conv (r3, h3) }"""
SIMPLE = {"outputs": "r2|r3", "macs": "0.9", "blocks": 1, "expand": 1.0}


def exchanged(graph: Graph, **options: object) -> tuple[Graph, list]:
    outcome = Pipeline([ExchangeBackbone(**{**SIMPLE, **options})]).run(graph, strict=True)
    return outcome.graph, outcome.results


def test_same_outputs_in_the_budget() -> None:
    graph = graph_from(DETECTOR)
    light, results = exchanged(graph)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    found = open_graph(light).run({"x": x})
    assert {k: v.shape for k, v in found.items()} == {"a": (2, 6, 8, 8), "b": (2, 6, 4, 4)}
    heads = 6 * 32 * 64 + 6 * 64 * 16
    assert cost_of(light).macs - heads <= 0.9 * (cost_of(graph).macs - heads)
    assert not {"w1", "w2", "w3"} & set(light.tensors())
    assert {"r2", "r3", "h2"} <= set(light.tensors())
    assert results[0].facts["stages"] == ["r2", "r3"]


def test_wider_with_a_larger_budget_and_seeded() -> None:
    graph = graph_from(DETECTOR)
    assert (
        cost_of(exchanged(graph, macs="0.5")[0]).macs
        < cost_of(exchanged(graph, macs="90%")[0]).macs
    )
    one, other = exchanged(graph)[0], exchanged(graph)[0]
    for name, tensor in one.tensors().items():
        if hasattr(tensor, "values"):
            np.testing.assert_array_equal(tensor.values, other.tensors()[name].values)


def test_what_is_still_read_is_kept_and_said() -> None:
    graph = graph_from(DETECTOR)
    light, results = exchanged(graph, outputs="r3", macs="0.9")
    assert "w2" in light.tensors()
    assert "w3" not in light.tensors()
    assert {n.what for n in results[0].refusals} == {
        "is still read behind the features that were named"
    }


def test_distilled_stage_by_stage_then_end_to_end() -> None:
    graph = graph_from(DETECTOR)
    data = np.random.default_rng(1).standard_normal((64, 3, 32, 32)).astype(np.float32)
    settings = {
        "data": [data],
        "recipe": "batch=16 lr=0.05 workers=0 augment=none",
        "device": "cpu",
    }
    light = exchanged(graph)[0]
    passes = [
        ExchangeBackbone(**SIMPLE),
        Recover(epochs=6, stages="known", stage_epochs=6, **settings),
    ]
    trained = Pipeline(passes).run(graph, strict=True).graph

    def gap(other: Graph) -> float:
        a, b = (open_graph(g).run({"x": data[:16]})["b"] for g in (graph, other))
        return float(np.square(a - b).mean() / a.var())

    assert gap(trained) < 0.7 * gap(light)


def test_a_stage_has_its_own_parameters() -> None:
    view = to_fx(exchanged(graph_from(DETECTOR))[0])
    first, second = parameters_before(view, "r2"), parameters_before(view, "r3")
    assert first & second
    assert second - first
    assert not {"h2", "h3"} & (first | second)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"outputs": ""}, UsageError, "needs the tensors where the backbone ends"),
        ({"outputs": "r9"}, UsageError, "no tensor is called 'r9'; did you mean"),
        ({"macs": "2"}, UsageError, "is no share such as 0.3"),
        ({"macs": "0.001"}, BudgetError, "even the narrowest backbone has"),
        ({"outputs": "w1"}, UsageError, "no tensor is called 'w1'"),
    ],
)
def test_what_cannot_be_meant(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        exchanged(graph_from(DETECTOR), **options)


@pytest.mark.slow
def test_yolov3_gets_the_backbone_of_system_3() -> None:
    """Darknet-53 under the neck of YOLOv3 becomes a MobileNet of at most a third of its MACs."""
    graph = normalize(
        to_onnx(build("yolov3").eval(), torch.randn(1, 3, 416, 416), exporter="torchscript")
    )
    from graphopt.passes.distill.taps import stage_ends

    ends = [n for n in stage_ends(graph) if graph.tensors()[n].shape[1] in (256, 512)][-2:]
    light, results = exchanged(graph, outputs="|".join(ends), macs="0.3", blocks=2, expand=4.0)
    assert results[0].status == "unverified"
    assert cost_of(light).macs < cost_of(graph).macs
