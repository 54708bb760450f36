"""regrow: what comes back, with which weights, and how much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import graph_from

from graphopt.errors import UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.passes.distill.recover import Recover
from graphopt.passes.prune.regrow import widened
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph
from graphopt.zoo import build

NETWORK = """(float[N,3,8,8] x) => (float[N,6] y)
    <float[16,3,3,3] w1, float[16] g1, float[16] b1, float[16] m1, float[16] var1,
     float[16,16,3,3] w2, float[16] g2, float[16] b2, float[16] m2, float[16] var2, float[6,16] f>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1)  n1 = BatchNormalization (c1, g1, b1, m1, var1)  r1 = Relu (n1)
      c2 = Conv <pads = [1,1,1,1]> (r1, w2)
      n2 = BatchNormalization (c2, g2, b2, m2, var2)  r2 = Relu (n2)  s = Add (r2, r1)
      p = GlobalAveragePool (s)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""
PRUNE = "prune{channels=0.25 multiple=2 floor=0 compensation=none}"
X = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


def ran(graph: Graph, text: str) -> Outcome:
    return Pipeline(parse_passes(text)).run(graph, strict=True)


def values(graph: Graph) -> dict[str, np.ndarray]:
    return {n: t.values for n, t in graph.tensors().items() if hasattr(t, "values")}


def outputs(graph: Graph) -> np.ndarray:
    return open_graph(graph).run({"x": X})["y"]


def test_everything_comes_back_under_a_budget_of_all() -> None:
    graph = graph_from(NETWORK)
    outcome = ran(graph, f"{PRUNE}, regrow{{channels=1.0 multiple=2}}")
    np.testing.assert_allclose(outputs(outcome.graph), outputs(graph), rtol=1e-4, atol=1e-5)
    assert not outcome.results[-1].facts["plan"].keep


def test_the_best_come_back_and_the_budget_holds() -> None:
    graph = graph_from(NETWORK)
    small = ran(graph, PRUNE)
    outcome = ran(graph, f"{PRUNE}, regrow{{macs=0.5 multiple=2 importance=l2}}")
    costs = [cost_of(g).macs for g in (graph, small.graph, outcome.graph)]
    assert costs[1] < costs[2] <= 0.5 * costs[0]
    first, then = small.results[-1].facts["plan"], outcome.results[-1].facts["plan"]
    assert set(first.keep["w1"][0]) < set(then.keep["w1"][0])
    masked = then.apply(graph)
    np.testing.assert_allclose(outputs(outcome.graph), outputs(masked), rtol=1e-4, atol=1e-5)


def test_what_was_trained_since_is_kept() -> None:
    graph = graph_from(NETWORK)
    small = ran(graph, PRUNE)
    plan = small.results[-1].facts["plan"]
    student = small.graph
    for name in ("w1", "g1", "f"):
        student.tensors()[name].values = student.tensors()[name].values + 1
    full, same = widened(student, plan, graph)
    assert same == plan
    kept, lost = list(plan.keep["w1"][0]), [i for i in range(16) if i not in plan.keep["w1"][0]]
    np.testing.assert_array_equal(values(full)["w1"][kept], values(student)["w1"])
    np.testing.assert_array_equal(values(full)["w1"][lost], values(graph)["w1"][lost])
    np.testing.assert_array_equal(values(full)["f"][:, kept], values(student)["f"])
    np.testing.assert_allclose(outputs(plan.apply(full)), outputs(student), rtol=1e-4, atol=1e-5)


def test_the_network_computes_what_it_did_where_that_is_wanted() -> None:
    graph = graph_from(NETWORK)
    small = ran(graph, PRUNE)
    loud = ran(graph, f"{PRUNE}, regrow{{channels=0.75 multiple=2}}")
    same = ran(graph, f"{PRUNE}, regrow{{channels=0.75 multiple=2 preserve=true}}")
    assert values(same.graph)["w1"].shape == values(loud.graph)["w1"].shape
    np.testing.assert_allclose(outputs(same.graph), outputs(small.graph), rtol=1e-5, atol=1e-6)
    assert np.abs(outputs(loud.graph) - outputs(small.graph)).max() > 0.1
    # What makes the channels is as it was, so that what reads them has something to learn from.
    np.testing.assert_array_equal(values(same.graph)["w1"], values(loud.graph)["w1"])


@pytest.mark.parametrize("name", ["mobilenetv2", "yolov3-mobilenetv3", "retinanet-r50-fpn"])
def test_zoo_networks_compute_what_they_did(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    example = torch.from_numpy(x)
    graph = normalize(to_onnx(build(name, width=0.25), example, exporter="torchscript"))
    prune = "prune{macs=0.5 multiple=2 compensation=none}"
    small = ran(graph, prune).graph
    wide = ran(graph, f"{prune}, regrow{{macs=0.7 multiple=2 preserve=true}}").graph
    assert cost_of(wide).macs > 1.2 * cost_of(small).macs
    feeds = {graph.inputs[0].name: x}
    said, meant = open_graph(wide).run(feeds), open_graph(small).run(feeds)
    for output, values_meant in meant.items():
        scale = np.abs(values_meant).max()
        np.testing.assert_allclose(said[output], values_meant, rtol=0, atol=1e-4 * scale)


WITHOUT_NORMS = """(float[N,3,8,8] x) => (float[N,6] y)
    <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16,16,3,3] w3, float[16] b3, float[6,16] f>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)  r1 = Relu (c1)
      c2 = Conv <pads = [1,1,1,1]> (r1, w2)  r2 = Relu (c2)
      c3 = Conv <pads = [1,1,1,1]> (r2, w3, b3)  d3 = Conv <pads = [1,1,1,1]> (r1, w3, b3)
      r3 = Relu (c3)  s3 = Relu (d3)  s = Add (r3, s3)
      p = GlobalAveragePool (s)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""


def test_biases_that_made_up_for_what_was_removed_grow_too() -> None:
    """One that a layer did not have, and one that it does not share any more."""
    graph = graph_from(WITHOUT_NORMS)
    images = np.random.default_rng(2).standard_normal((16, 3, 8, 8)).astype(np.float32)
    how = {"channels": "0.5", "multiple": 2, "floor": 0.0, "compensation": "linear"}
    prune = pass_class("prune").with_options({**how, "data": [images], "importance": "l2"})
    small = Pipeline([prune]).run(graph, strict=True)
    made = set(values(small.graph)) - set(values(graph))
    assert made
    full, plan = widened(small.graph, small.results[-1].facts["plan"], graph)
    assert made <= set(plan.keep) | {"f_bias"}
    np.testing.assert_allclose(
        outputs(plan.apply(full)), outputs(small.graph), rtol=1e-4, atol=1e-5
    )
    train = Recover(data=[images], epochs=1, recipe="batch=8 workers=0", device="cpu")
    once = parse_passes("regrow{channels=0.75 multiple=2}")
    twice = parse_passes("regrow{channels=0.9 multiple=2}")
    passes = [prune, *once, train, *twice]  # training pairs channels with the teacher's by the plan
    outcome = Pipeline(passes).run(graph, strict=True)
    wide = [len(values(g)["w1"]) for g in (small.graph, outcome.graph)]
    assert wide[0] < wide[1]
    assert set(outcome.results[-1].facts["plan"].keep) <= set(values(graph))


def test_prune_train_regrow_train() -> None:
    data = np.random.default_rng(1).standard_normal((48, 3, 8, 8)).astype(np.float32)
    train = Recover(data=[data], epochs=4, recipe="batch=16 lr=0.02 workers=0", device="cpu")
    passes = [*parse_passes(PRUNE), train, *parse_passes("regrow{macs=0.6 multiple=2}"), train]
    graph = graph_from(NETWORK)
    outcome = Pipeline(passes).run(graph, strict=True)
    plain = Pipeline(passes[:2]).run(graph, strict=True)
    gaps = [
        float(np.square(outputs(g) - outputs(graph)).mean()) for g in (plain.graph, outcome.graph)
    ]
    assert gaps[1] < gaps[0]
    assert [r.status for r in outcome.results] == [
        "verified",
        "unverified",
        "unverified",
        "unverified",
    ]


def test_what_cannot_be_meant() -> None:
    graph = graph_from(NETWORK)
    with pytest.raises(UsageError, match="run prune before it"):
        ran(graph, "regrow{macs=0.5}")
    with pytest.raises(UsageError, match="needs a budget"):
        ran(graph, f"{PRUNE}, regrow")
    with pytest.raises(UsageError, match="regrow must run after prune"):
        ran(graph, f"regrow{{macs=0.5}}, {PRUNE}")
    tight = ran(graph, f"{PRUNE}, regrow{{channels=0.26 multiple=8}}").results[-1]
    assert tight.status == "unchanged"
    assert "no block of removed channels fits" in tight.refusals[0].what


def test_pruned_twice_and_recovered_with_exact_pairs() -> None:
    data = np.random.default_rng(1).standard_normal((32, 3, 8, 8)).astype(np.float32)
    train = Recover(data=[data], epochs=1, recipe="batch=16 workers=0", device="cpu")
    graph = graph_from(NETWORK)
    second = "prune{channels=0.5 multiple=2 floor=0 compensation=none}"
    first = "prune{channels=0.7 multiple=2 floor=0 compensation=none}"
    passes = [*parse_passes(first), train, *parse_passes(second), train]
    outcome = Pipeline(passes).run(graph, strict=True)
    whole = outcome.results[2].facts["since_teacher"]
    assert whole.shapes["w1"] == (16, 3, 3, 3)
    kept = whole.keep["w1"][0]
    assert len(kept) == outcome.graph.tensors()["w1"].values.shape[0] < 16
    assert set(kept) <= set(outcome.results[0].facts["plan"].keep["w1"][0])
    again = Pipeline([*passes, *parse_passes("regrow{channels=0.75 multiple=2}")]).run(
        graph, strict=True
    )
    assert again.graph.tensors()["w1"].values.shape[0] > len(kept)
