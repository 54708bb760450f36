"""prune-recover: rounds reach the budget, learn from the first network, and stop where they cost too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import BudgetError, UsageError
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.ir.proto import to_proto
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.report.document import pruning_facts
from graphopt.tasks import judging as judging_module

NETWORK = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[24,3,3,3] w0, float[24] g0, float[24] b0, float[24] m0, float[24] var0,
     float[32,24,3,3] w1, float[32] g1, float[32] b1, float[32] m1, float[32] var1,
     float[5,32] w2>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  n = BatchNormalization (a, g0, b0, m0, var0)
      r = Relu (n)
      b = Conv <pads = [1,1,1,1]> (r, w1)  t = BatchNormalization (b, g1, b1, m1, var1)
      e = Relu (t)  p = GlobalAveragePool (e)  f = Flatten (p)  y = Gemm <transB = 1> (f, w2) }"""
IMAGES = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
PRUNE = "macs=40% importance=l2 allocation=uniform compensation=none multiple=1"
RECOVER = "epochs=1 batch=8 workers=0 augment=none lr=0.01 device=cpu"


def rounds(count: int = 2, graph: Graph | None = None, **options: Any) -> Outcome:
    given = {"prune": PRUNE, "recover": RECOVER, "rounds": count, "data": IMAGES, **options}
    graph = graph_from(NETWORK) if graph is None else graph
    return Pipeline([pass_class("prune-recover").with_options(given)]).run(graph, strict=True)


def parameters(graph: Graph) -> dict[str, bytes]:
    return {k: t.values.tobytes() for k, t in graph.tensors().items() if hasattr(t, "values")}


def by_macs(monkeypatch: pytest.MonkeyPatch, scores: dict[float, float]) -> None:
    """A metric that follows from the share of the MACs that is left: the first that is reached."""

    def judging(*_: Any, **__: Any) -> Any:
        whole = cost_of(graph_from(NETWORK)).macs

        def judge(graph: Graph) -> dict[str, float]:
            share = cost_of(graph).macs / whole
            return {"top1": next(v for least, v in scores.items() if share > least)}

        return judge

    monkeypatch.setattr(judging_module, "judging", judging)


def test_the_rounds_are_what_the_passes_do_one_after_another() -> None:
    whole = cost_of(graph_from(NETWORK)).macs
    steps = []
    for left in (0.7, 0.4):
        how = PRUNE.replace("macs=40%", f"macs={round(left * whole)}")
        steps += parse_passes(f"prune{{{how.replace(' ', ',')}}}")
        steps.append(pass_class("recover").with_recipe(_options(RECOVER, data=IMAGES)))
    apart = Pipeline(steps).run(graph_from(NETWORK), strict=True)
    together = rounds()
    assert cost_of(together.graph).macs == pytest.approx(0.4 * whole, rel=0.05)
    assert parameters(together.graph) == parameters(apart.graph)
    plans = [o.facts["since_teacher"] for o in (together.results[0], apart.results[2])]
    assert plans[0].keep == plans[1].keep


def _options(text: str, **more: Any) -> dict[str, Any]:
    return {**dict(pair.split("=") for pair in text.split()), **more}


def test_what_the_rounds_did_is_told_as_one() -> None:
    made = rounds(3).results[0]
    assert [r["round"] for r in made.facts["rounds"]] == [1, 2, 3]
    macs = [r["macs"] for r in made.facts["rounds"]]
    assert macs == sorted(macs, reverse=True)
    assert len(made.rewrites) == 3
    assert len(made.facts["training"]["rows"]) == 3
    before, after = next(iter(made.facts["channels"].values()))
    assert (before, after) == (24, len(made.facts["plan"].keep["w0"][0]))
    replayed = parse_passes("prune")[0].with_options({"plan": made.facts["plan"]})
    shapes = {
        k: t.shape for k, t in Pipeline([replayed]).run(graph_from(NETWORK)).graph.tensors().items()
    }
    assert shapes["w1"] == rounds(3).graph.tensors()["w1"].shape


def test_it_stops_before_the_round_that_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    by_macs(monkeypatch, {0.9: 0.9, 0.65: 0.89, 0.5: 0.885, 0: 0.8})
    made = rounds(4, prune=PRUNE.replace("40%", "20%"), judge="shapes:test", max_drop=2)
    told = made.results[0].facts["rounds"]
    assert [round(r["lost"], 1) for r in told] == [1.0, 1.5, 10.0]  # 80, 60, 40 %; not 20 %
    assert cost_of(made.graph).macs == told[1]["macs"]
    assert len(made.results[0].rewrites) == 2
    [refusal] = made.results[0].refusals
    assert "10.0 points lost" in refusal.what
    shown = pruning_facts(made.results[0])  # a round that was undone is no layer that was kept
    assert shown["held"] == []
    assert [done.partition(":")[0] for done in shown["done"]] == ["round 1", "round 2", "round 3"]


def test_nothing_is_left_when_the_first_round_costs_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_macs(monkeypatch, {0.9: 0.9, 0: 0.5})
    with pytest.raises(BudgetError, match=r"first of 2 rounds.*40\.0 points lost, 1 allowed"):
        rounds(judge="shapes:test", max_drop=1)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole = rounds()
    one = rounds(folder=str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round1", "round2"]
    again = rounds(folder=str(tmp_path))
    assert parameters(whole.graph) == parameters(one.graph) == parameters(again.graph)


def _bytes(graph: Graph) -> bytes:
    return to_proto(graph)[0].SerializeToString()


def test_the_callers_graph_is_left_alone() -> None:
    graph = graph_from(NETWORK)
    before = _bytes(graph)
    rounds(graph=graph)
    assert _bytes(graph) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_drop": 1.0}, "judge=KIND:WHERE"),
        ({"count": 0}, "rounds=0"),
        ({"prune": "macs=50% rounds=3"}, "rounds of its own"),
        ({"prune": "mac=50%"}, "macs"),
        ({"recover": "epoch=1"}, "epochs"),
        ({"data": None}, "images"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        rounds(**options)
