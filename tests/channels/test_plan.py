"""Plans as data: saved, replayed, refused when they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan, save
from graphopt.errors import PlanError, SaveError
from graphopt.ir.graph import Constant, Graph

CHAIN = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[8,3,1,1] w0, float[8] c0, float[4,8,1,1] w1>
    { a = Conv (x, w0, c0)  r = Relu (a)  y = Conv (r, w1) }"""
WIDER = (
    CHAIN.replace("[8,3,1,1]", "[16,3,1,1]").replace("[8] c0", "[16] c0").replace("[4,8,", "[4,16,")
)


def plan_of(graph: Graph, removed: list[int]) -> Plan:
    return Plan.removing(Channels(graph), np.array(removed))


def constants(graph: Graph) -> dict[str, Any]:
    return {n: t.values for n, t in graph.tensors().items() if isinstance(t, Constant)}


def test_names_what_stays() -> None:
    plan = plan_of(graph_from(CHAIN), [1, 6])
    kept = (0, 2, 3, 4, 5, 7)
    assert plan.keep == {"w0": {0: kept}, "c0": {0: kept}, "w1": {1: kept}}
    assert plan.removed_parameters == 2 * 3 + 2 + 2 * 4


def test_survives_a_file(tmp_path: Path) -> None:
    plan = plan_of(graph_from(CHAIN), [0, 3])
    save(plan, tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_graph_and_state_dict_end_alike() -> None:
    graph = graph_from(CHAIN)
    plan = plan_of(graph, [2, 3, 5])
    pruned, state = constants(plan.apply(graph)), plan.apply_to_state_dict(constants(graph))
    assert set(pruned) == set(state) == {"w0", "c0", "w1"}
    for name, values in pruned.items():
        np.testing.assert_array_equal(values, state[name])


def test_a_fine_tuned_model_takes_the_same_plan() -> None:
    assert plan_of(graph_from(CHAIN), [1]).apply(graph_from(CHAIN, seed=7)) is not None


def test_refuses_to_be_applied_twice() -> None:
    graph = graph_from(CHAIN)
    plan = plan_of(graph, [1])
    with pytest.raises(PlanError, match="has been applied to this model already"):
        plan.apply(plan.apply(graph))
    once = plan.apply_to_state_dict(constants(graph))
    with pytest.raises(PlanError, match="already"):
        plan.apply_to_state_dict(once)


def test_refuses_another_model() -> None:
    plan = plan_of(graph_from(CHAIN), [1])
    with pytest.raises(PlanError, match="'w0' is 16x3x1x1 here and 8x3x1x1 in the plan"):
        plan.apply(graph_from(WIDER))
    with pytest.raises(PlanError, match="there is no parameter 'w0' here"):
        plan.apply(graph_from(CHAIN.replace("w0", "v0")))


def test_refuses_to_tear_coupled_channels_apart() -> None:
    graph = graph_from(CHAIN)
    content = json.loads(plan_of(graph, [1]).to_json())
    content["keep"]["c0"]["0"] = [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(PlanError, match="tear coupled channels apart"):
        Plan.from_json(json.dumps(content)).apply(graph)


def test_refuses_to_remove_what_has_to_stay() -> None:
    graph = graph_from(CHAIN)
    content = json.loads(plan_of(graph, [1]).to_json())
    content["keep"]["w1"]["0"] = [0, 1, 2]
    with pytest.raises(PlanError, match="another model or changed by hand|cannot be removed"):
        Plan.from_json(json.dumps(content)).apply(graph)


DAMAGED = [
    ("{", "is not JSON"),
    ("[]", "is not a graphopt pruning plan"),
    ('{"graphopt_plan": 99}', "is not a graphopt pruning plan of version 1"),
    ('{"graphopt_plan": 1}', "is damaged"),
]


@pytest.mark.parametrize(("text", "message"), DAMAGED)
def test_refuses_what_is_no_plan(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize("kept", [[], [0, 0], [3, 1], [0, 99], [-1], [0.5], "ab", [True]])
def test_refuses_indices_that_are_none(kept: Any) -> None:
    content = json.loads(plan_of(graph_from(CHAIN), [1]).to_json())
    content["keep"]["w0"]["0"] = kept
    with pytest.raises(PlanError, match="is damaged"):
        Plan.from_json(json.dumps(content))


def test_a_file_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(SaveError, match="cannot write the plan"):
        save(plan_of(graph_from(CHAIN), [1]), tmp_path / "nowhere" / "plan.json")
