"""How the loss is spread: times, limits, sections, measured sensitivity, latency."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.passes.prune import sensitivity
from graphopt.passes.prune.account import Account
from graphopt.passes.prune.allocation import everywhere, isomorphic, shares, uniform
from graphopt.passes.prune.budget import Budget
from graphopt.passes.prune.sections import sections
from graphopt.passes.prune.selection import Limits, Selector
from graphopt.pipeline import Pipeline
from graphopt.registry import pass_class
from graphopt.runtime.targets import target

# Two inner layers of 32 and 16 channels.
CHAIN = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float[32,3,3,3] w0, float[16,32,3,3] w1, float[4,16,1,1] w2>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  r = Relu (a)  b = Conv <pads = [1,1,1,1]> (r, w1)
      s = Relu (b)  y = Conv (s, w2) }"""
# Down twice, up once with a skip, down again: a little detector's shape.
HOURGLASS = """(float[1,3,32,32] x) => (float[1,4,8,8] y)
    <float[16,3,3,3] w0, float[32,16,3,3] w1, float[32,32,3,3] w2, float[16,32,1,1] w3,
     float[24,48,3,3] w4, float[32,24,3,3] w5, float[4,32,1,1] w6,
     float[4] two = {1, 1, 2, 2}>
    { a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w0)
      b = Conv <pads = [1,1,1,1], strides = [2,2]> (a, w1)  c = Relu (b)
      d = Conv <pads = [1,1,1,1], strides = [2,2]> (c, w2)  e = Relu (d)
      l = Conv (e, w3)  u = Resize (l, , two)  k = Concat <axis = 1> (u, c)
      m = Conv <pads = [1,1,1,1]> (k, w4)  n = Relu (m)
      o = Conv <pads = [1,1,1,1]> (n, w5)  q = Relu (o)  y = Conv (q, w6) }"""


@pytest.fixture
def chain() -> Channels:
    return Channels(graph_from(CHAIN))


def _scores(channels: Channels) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(channels.unit_count)


def test_uniform_takes_the_same_share_of_every_group(chain: Channels) -> None:
    times = uniform(chain, _scores(chain))
    for group in chain.groups:
        assert abs((times[group.units] <= 0.5 + 1e-6).mean() - 0.5) < 0.05


def test_global_compares_all_units(chain: Channels) -> None:
    scores = _scores(chain)
    scores[chain.groups[0].units] += 10
    times = everywhere(chain, scores)
    assert times[chain.groups[1].units].max() < times[chain.groups[0].units].min()


def test_isomorphic_compares_only_equal_structures(chain: Channels) -> None:
    scores = _scores(chain)
    scores[chain.groups[0].units] += 10  # read by a 3x3, the other group by a 1x1: not compared
    times = isomorphic(chain, scores)
    for group in chain.groups:
        assert times[group.units].max() == pytest.approx(1, abs=1e-6)


def test_shares_go_in_proportion(chain: Channels) -> None:
    times = shares(chain, _scores(chain), {0: ("a", 0.5), 1: ("b", 0.25)})
    gone = [(times[g.units] <= 1 + 1e-6).mean() for g in chain.groups]
    assert gone == [0.5, 0.25]
    with pytest.raises(UsageError, match="cannot lose a share of 2"):
        shares(chain, _scores(chain), {0: ("a", 2.0), 1: ("b", 0.0)})


def test_the_clock_only_ever_removes_more(chain: Channels) -> None:
    scores, account = _scores(chain), Account(chain)
    times = everywhere(chain, scores)
    selector = Selector(chain, account, scores, times, Limits(floor=0.25, multiple=4))
    macs = [selector.at(t).totals.macs for t in np.linspace(0, 1, 20)]
    assert macs == sorted(macs, reverse=True)
    least = selector.at(2.0)
    for group, size in zip(chain.groups, (32, 16), strict=True):
        assert least.alive[group.units].sum() == size / 4


@pytest.mark.parametrize(("text", "limit"), [("0.5", 0.5), ("50%", 0.5), ("1", 1.0), (0.25, 0.25)])
def test_budgets_of_a_share(chain: Channels, text: Any, limit: float) -> None:
    whole = Account(chain).totals(np.ones(chain.unit_count, bool))
    assert Budget.parse("macs", text, whole).limit == pytest.approx(limit * whole.macs)
    assert Budget.parse("macs", "100k", whole).limit == 1e5


# --- sections and sensitivity -----------------------------------------------------------------


def test_sections_follow_scale_and_direction() -> None:
    channels = Channels(graph_from(HOURGLASS))
    found = sections(channels)
    assert sorted(g for s in found for g in s.groups) == list(range(len(channels.groups)))
    assert [s.name.split(": ")[1].split(" at")[0] for s in found][-1] == "way up"
    assert found[0].name.startswith("1: backbone")


def test_sensitivity_orders_parts_by_the_damage_they_do(chain: Channels) -> None:
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)}]
    weight = next(n for n in chain.graph.nodes if n.op == "Conv").inputs[1]
    values = weight.values.copy()
    values[:24] = 0.0  # three quarters of the first layer say nothing
    weight.values = values
    scores = _scores(chain)
    scores[chain.units_of(chain.sweep.findings.sites[1].labels)] += 0  # the same for both
    first = chain.groups[0].units
    scores[first] = np.arange(len(first))
    parts = [("first", first), ("second", chain.groups[1].units)]
    found = sensitivity.measure(chain, scores, parts, data)
    assert max(found.errors[0]) < 1e-6 < min(found.errors[1])
    times = sensitivity.times(chain.unit_count, scores, parts, found)
    assert np.sort(times[first])[:24].max() < times[chain.groups[1].units].min()


@pytest.mark.parametrize("allocation", ["sensitivity", "sections"])
def test_measured_allocations_meet_the_budget(allocation: str) -> None:
    wanted = pass_class("prune").with_options(
        {"macs": "0.5", "allocation": allocation, "multiple": "4"}
    )
    result = Pipeline([wanted]).run(graph_from(HOURGLASS), strict=True).results[0]
    assert 0.4 < result.facts["plan"].after["macs"] / result.facts["plan"].before["macs"] <= 0.5
    assert result.facts["sensitivity"]


# --- latency ----------------------------------------------------------------------------------


def test_the_roofline_is_the_slower_of_computing_and_moving(chain: Channels) -> None:
    one = {"float32": 1}
    core = replace(target("tx2").computing[0], cpus=(0,), gigahertz=1.0, macs_per_cycle=one)
    slow = replace(target("tx2"), clusters=(core,), gigabytes_per_second=1.0, efficiency={})
    fast_memory = replace(slow, gigabytes_per_second=1e9)
    fast_core = replace(slow, clusters=(replace(core, gigahertz=1e9),))
    alive = np.ones(chain.unit_count, bool)
    computing = Account(chain, fast_memory).totals(alive)
    assert computing.latency == pytest.approx(computing.macs / 1e9, rel=1e-6)
    twice = replace(fast_memory, efficiency={"conv3x3": 2.0, "conv": 2.0, "conv1x1": 2.0})
    assert Account(chain, twice).totals(alive).latency == pytest.approx(computing.latency / 2)
    moving = Account(chain, fast_core).totals(alive)
    tensors = [t for n in chain.graph.nodes for t in [*n.inputs, *n.outputs]]
    assert moving.latency == pytest.approx(
        sum(4 * float(np.prod(t.shape)) for t in tensors) / 1e9, rel=1e-6
    )


def test_a_latency_budget_needs_a_board() -> None:
    def run(**options: str) -> Any:
        wanted = pass_class("prune").with_options(options)
        return Pipeline([wanted]).run(graph_from(HOURGLASS), strict=True).results[0].facts["plan"]

    plan = run(latency="0.6", target="tx2", multiple="1")
    assert 0 < plan.after["latency"] <= 0.6 * plan.before["latency"]
    plan = run(latency="0.6", target="tx2", multiple="1", rounds="2")
    assert 0.5 < plan.after["latency"] / plan.before["latency"] <= 0.6
    with pytest.raises(UsageError, match="a latency budget needs a target: .*tx2"):
        run(latency="0.6")
    with pytest.raises(UsageError, match="no target is called 'toaster'"):
        run(latency="0.6", target="toaster")
    assert target("kirin990").macs_per_second == pytest.approx(2 * (2.86e9 + 2.36e9) * 8)


def test_sections_take_the_shares_they_are_given() -> None:
    """System 2 gives every section a threshold of its own; a budget is not needed then."""

    def run(**options: str) -> Any:
        given = {"allocation": "sections", "multiple": "1", "floor": "0", **options}
        wanted = pass_class("prune").with_options(given)
        return Pipeline([wanted]).run(graph_from(HOURGLASS), strict=True).results[0]

    found = sections(Channels(graph_from(HOURGLASS)))
    result = run(shares="|".join(["0.5"] + ["0"] * (len(found) - 1)))
    groups = result.facts["groups"]
    inside = set(found[0].groups)
    assert {g["after"] / g["before"] for k, g in enumerate(groups) if k not in inside} == {1.0}
    lost = sum(groups[k]["before"] - groups[k]["after"] for k in inside)
    assert lost == sum(groups[k]["before"] for k in inside) // 2
    with pytest.raises(UsageError, match=f"2 shares were given for {len(found)} sections"):
        run(shares="0.1|0.2")
    with pytest.raises(UsageError, match="are no numbers"):
        run(shares="much")
    with pytest.raises(UsageError, match="use allocation=sections"):
        run(shares="0.1", allocation="uniform")
