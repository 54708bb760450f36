"""prune: what it removes, what it refuses, and that budgets are met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan
from graphopt.errors import BudgetError, UsageError
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import pass_class
from graphopt.runtime.run import open_graph

CHAIN = """(float[N,3,16,16] x) => (float[N,4,16,16] y)
    <float[32,3,3,3] w0, float[32] g0, float[32] b0, float[32] m0, float[32] var0,
     float[64,32,3,3] w1, float[64] c1, float[4,64,1,1] w2>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  n = BatchNormalization (a, g0, b0, m0, var0)  r = Relu (n)
      d = Conv <pads = [1,1,1,1]> (r, w1, c1)  e = Relu (d)  y = Conv (e, w2) }"""
RESIDUAL = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[32,3,3,3] w0, float[32,32,3,3] w1, float[32,32,3,3] w2, float[5,32] w3>
    { s = Conv <pads = [1,1,1,1]> (x, w0)  a = Conv <pads = [1,1,1,1]> (s, w1)  r = Relu (a)
      b = Conv <pads = [1,1,1,1]> (r, w2)  t = Add (s, b)  p = GlobalAveragePool (t)
      f = Flatten (p)  y = Gemm <transB = 1> (f, w3) }"""
OUTPUT_ONLY = "(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w> { y = Conv (x, w) }"


def pruned(text: str | Graph, **options: Any) -> Outcome:
    graph = graph_from(text) if isinstance(text, str) else text
    return Pipeline([pass_class("prune").with_options(options)]).run(graph, strict=True)


@pytest.mark.parametrize("text", [CHAIN, RESIDUAL])
@pytest.mark.parametrize("metric", ["macs", "parameters", "bytes", "channels"])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_meets_a_budget_and_tells_the_cost_beforehand(text: str, metric: str, share: float) -> None:
    outcome = pruned(text, **{metric: str(share)}, multiple="1")
    facts = outcome.results[0].facts
    told, before = facts["plan"].after[metric], facts["plan"].before[metric]
    assert share * 0.9 < told / before <= share
    cost = cost_of(outcome.graph)
    assert facts["plan"].after["macs"] == cost.macs
    assert facts["plan"].after["parameters"] == cost.parameters
    assert outcome.results[0].detail == "pruned == masked within 0.0001"


def test_several_budgets_hold_at_once() -> None:
    outcome = pruned(CHAIN, macs="0.6", parameters="0.3")
    plan = outcome.results[0].facts["plan"]
    assert plan.after["macs"] <= 0.6 * plan.before["macs"]
    assert plan.after["parameters"] <= 0.3 * plan.before["parameters"]


def test_layers_keep_a_multiple_and_a_floor() -> None:
    widths = pruned(CHAIN, macs="0.5", multiple="8", floor="0.5").results[0].facts["channels"]
    assert all(after % 8 == 0 or after == before for before, after in widths.values())
    assert all(after >= before / 2 for before, after in widths.values())


def test_removes_the_channels_that_matter_least() -> None:
    graph = graph_from(CHAIN)
    weight = next(n for n in graph.nodes if n.op == "Conv").inputs[1]
    weak = np.array([1, 5, 8, 9, 30])
    values = np.ones_like(weight.values)
    values[weak] *= 1e-3
    weight.values = values
    options = {"channels": "92", "include": "w0", "multiple": "1", "importance": "l2"}
    plan = pruned(graph, **options).results[0].facts["plan"]
    kept = plan.keep["w0"][0]
    assert len(kept) < 32
    assert not set(range(32)) - set(kept) - set(weak.tolist())


def test_coupled_layers_lose_the_same_channels() -> None:
    plan = pruned(RESIDUAL, macs="0.4").results[0].facts["plan"]
    assert plan.keep["w0"][0] == plan.keep["w2"][0] == plan.keep["w1"][1] == plan.keep["w3"][1]


def test_a_wrong_removal_is_found_and_its_group_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.channels import masking

    real = masking.masked

    def wrong(channels: Channels, removed: Any) -> Graph:
        # The mask forgets the channels of the first group: as if its rule were wrong.
        first = channels.groups[0].units
        return real(channels, np.setdiff1d(removed, first))

    monkeypatch.setattr("graphopt.passes.prune.proof.masked", wrong)
    outcome = pruned(CHAIN, macs="0.5")
    broken = [n for n in outcome.results[0].refusals if "broke the proof" in n.what]
    assert len(broken) == 1
    widths = list(outcome.results[0].facts["channels"].values())
    assert widths[0] == (32, 32)
    assert widths[1][1] < 64


REFUSED = [
    ({}, UsageError, "needs a budget"),
    ({"macs": "nonsense"}, UsageError, "not a number"),
    ({"macs": "0"}, UsageError, "leaves nothing"),
    ({"macs": "100G"}, UsageError, "more than the model has"),
    ({"macs": "50"}, UsageError, "a share is written 50%"),
    ({"macs": "0.5", "importance": "l7"}, UsageError, "did you mean"),
    ({"macs": "0.5", "allocation": "fair"}, UsageError, "no allocation is called 'fair'"),
    ({"macs": "0.5", "include": "w9"}, UsageError, "did you mean"),
    ({"macs": "0.5", "exclude": "*"}, UsageError, "leave nothing that could be removed"),
    ({"macs": "0.5", "floor": "2"}, UsageError, "floor is a share"),
    ({"macs": "0.5", "multiple": "0"}, UsageError, "at least 1"),
    ({"macs": "0.5", "compensation": "magic"}, UsageError, "compensation 'magic' is not one of"),
    ({"macs": "0.5", "compensation": "mean"}, UsageError, "give --data"),
    ({"macs": "0.5", "recalibration": "yes"}, UsageError, "give --data"),
    ({"macs": "0.001"}, BudgetError, "macs cannot go below"),
    ({"macs": "0.5", "data": "/nowhere"}, UsageError, "nowhere"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED)
def test_refuses_wishes_that_cannot_be(
    options: dict[str, str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pruned(CHAIN, **options)


def test_says_why_nothing_can_go() -> None:
    with pytest.raises(BudgetError, match="'y' is an output of the model"):
        pruned(OUTPUT_ONLY, macs="0.5")


def test_tells_which_layers_stay_and_why() -> None:
    told = [n.what for n in pruned(CHAIN, macs="0.5").results[0].refusals]
    assert "all of its 4 channels stay: 'y' is an output of the model" in told


# --- making up for what is gone ---------------------------------------------------------------


def _feeds(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    return [{"x": rng.standard_normal((8, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def _error(a: Graph, b: Graph, feeds: list[dict[str, Any]]) -> float:
    ours, theirs = open_graph(a), open_graph(b)
    pairs = [(ours.run(f)["y"], theirs.run(f)["y"]) for f in feeds]
    off = sum(float(np.square(p - q).sum()) for p, q in pairs)
    return off / sum(float(np.square(p).sum()) for p, _ in pairs)


def test_compensation_and_recalibration_bring_the_outputs_back() -> None:
    graph = graph_from(CHAIN)
    rng = np.random.default_rng(0)
    seen, unseen = _feeds(rng, 4), _feeds(rng, 2)
    errors = {
        mode: _error(
            graph,
            pruned(graph, macs="0.5", data=seen, compensation=mode, recalibration="no").graph,
            unseen,
        )
        for mode in ("none", "mean", "linear", "refit")
    }
    assert errors["refit"] < errors["linear"] < errors["mean"] < errors["none"]
    assert errors["linear"] < 0.5 * errors["none"]


def test_constants_are_folded_exactly_without_data() -> None:
    graph = graph_from(
        CHAIN.replace("<pads = [1,1,1,1]> (r, w1", "(r, w1").replace("N,4,16,16", "N,4,14,14")
    )
    norm = next(n for n in graph.nodes if n.op == "BatchNormalization")
    gamma, beta = norm.inputs[1].values.copy(), np.abs(norm.inputs[2].values) + 1
    gamma[:16] = 0.0  # these channels are relu(beta) whatever the image
    norm.inputs[1].values, norm.inputs[2].values = gamma, beta.astype(np.float32)
    options = {"channels": "84", "include": "w0", "importance": "bn-gamma"}
    feeds = _feeds(np.random.default_rng(0), 1)
    folded = pruned(graph, compensation="constants", **options).graph
    assert _error(graph, folded, feeds) < 1e-10
    assert _error(graph, pruned(graph, compensation="none", **options).graph, feeds) > 1e-3


def test_a_saved_plan_does_the_same_again(tmp_path: Any) -> None:
    from graphopt.channels.plan import save

    first = pruned(RESIDUAL, macs="0.5")
    path = tmp_path / "plan.json"
    save(first.results[0].facts["plan"], path)
    again = pruned(RESIDUAL, plan=str(path))
    assert cost_of(again.graph) == cost_of(first.graph)
    assert Plan.load(path).keep == again.results[0].facts["plan"].keep
    with pytest.raises(UsageError, match="a plan says already what goes; leave out macs"):
        pruned(RESIDUAL, plan=str(path), macs="0.5")


def test_rounds_that_give_layers_biases_tell_a_plan_for_the_network_without_them() -> None:
    """Linear compensation gives the second convolution a bias, which the next round prunes too."""
    graph = graph_from("""(float[N,3,8,8] x) => (float[N,6] y)
        <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16,16,3,3] w3, float[6,16] f>
        { c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)  r1 = Relu (c1)  c2 = Conv <pads = [1,1,1,1]> (r1, w2)
          r2 = Relu (c2)  c3 = Conv <pads = [1,1,1,1]> (r2, w3)  r3 = Relu (c3)
          p = GlobalAveragePool (r3)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }""")
    images = np.random.default_rng(2).standard_normal((16, 3, 8, 8)).astype(np.float32)
    how = {"data": [images], "compensation": "linear", "importance": "l2", "floor": 0.0}
    outcome = pruned(graph, channels="0.4", rounds="3", multiple="2", **how)
    plan = outcome.results[0].facts["plan"]
    names = {n for n, t in graph.tensors().items() if hasattr(t, "values")}
    assert set(plan.keep) <= names
    assert plan.made
    assert not set(plan.made) & names
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert cost_of(again.apply(graph)).macs == cost_of(outcome.graph).macs


def test_rounds_reach_the_same_budget_and_tell_one_plan() -> None:
    graph = graph_from(CHAIN)
    outcome = pruned(graph, macs="0.4", rounds="3", multiple="4")
    plan = outcome.results[0].facts["plan"]
    assert 0.35 < plan.after["macs"] / plan.before["macs"] <= 0.4
    assert plan.before["macs"] == cost_of(graph).macs
    replayed = plan.apply(graph)
    assert cost_of(replayed) == cost_of(outcome.graph)
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    np.testing.assert_allclose(
        open_graph(replayed).run(x)["y"],
        open_graph(outcome.graph).run(x)["y"],
        rtol=1e-4,
        atol=1e-5,
    )
