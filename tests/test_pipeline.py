"""The pipeline: contracts are enforced, broken ones rolled back, orders checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from conftest import graph_from

import graphopt
from graphopt.errors import PassError, UsageError
from graphopt.ir.graph import Graph, add_constant, add_node, bypass, nodes_of, set_input
from graphopt.oracle import Oracle
from graphopt.pass_base import Changes, Close, Context, Exact, Numerics, Pass
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes

NET = """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4,1,1] s>
    { c = Conv <strides = [1, 1]> (x, w)  r = Relu (c)  y = Mul (r, s) }"""


def _scaled(graph: Graph, factor: float) -> None:
    mul = next(nodes_of(graph, "Mul"))
    set_input(mul, 1, add_constant(graph, "s", (mul.inputs[1].values * factor).astype(np.float32)))


@dataclass(frozen=True)
class ScaleOutput(Pass):
    """y == factor * y, which is only honest for factor 1."""

    factor: float = 1.01
    name: ClassVar[str] = "scale-output"
    numerics: ClassVar[Numerics] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        _scaled(graph, self.factor)
        context.rewrote("y", f"scaled by {self.factor}")


@dataclass(frozen=True)
class ExactlyScaled(ScaleOutput):
    """The same, promising exactness."""

    name: ClassVar[str] = "exactly-scaled"
    numerics: ClassVar[Numerics] = Exact()


@dataclass(frozen=True)
class MeansToScale(ScaleOutput):
    """The same, saying so."""

    name: ClassVar[str] = "means-to-scale"
    numerics: ClassVar[Numerics] = Changes("scales the output")


@dataclass(frozen=True)
class Silent(ScaleOutput):
    """Changes the graph and does not log it."""

    name: ClassVar[str] = "silent"

    def run(self, graph: Graph, context: Context) -> None:
        _scaled(graph, 1.0)


@dataclass(frozen=True)
class Crashes(ScaleOutput):
    """Raises half-way through an edit."""

    name: ClassVar[str] = "crashes"

    def run(self, graph: Graph, context: Context) -> None:
        _scaled(graph, 3.0)
        raise ZeroDivisionError("by design")


@dataclass(frozen=True)
class WritesIntoAList(ScaleOutput):
    """Changes an attribute where it stands, and does not log it."""

    name: ClassVar[str] = "writes-into-a-list"

    def run(self, graph: Graph, context: Context) -> None:
        next(nodes_of(graph, "Conv")).attrs["strides"][0] = 2


@dataclass(frozen=True)
class CutsTheWire(ScaleOutput):
    """Leaves an input that nobody computes."""

    name: ClassVar[str] = "cuts-the-wire"

    def run(self, graph: Graph, context: Context) -> None:
        relu = next(nodes_of(graph, "Relu"))
        relu.inputs[0] = graphopt.ir.graph.Variable("nowhere", np.float32, [1, 4, 8, 8])
        context.rewrote(relu, "cut")


@dataclass(frozen=True)
class DropRelu(ScaleOutput):
    """Drops the activation, which large negative inputs reveal."""

    name: ClassVar[str] = "drop-relu"

    def run(self, graph: Graph, context: Context) -> None:
        for relu in nodes_of(graph, "Relu"):
            bypass(graph, relu)
            context.rewrote(relu, "dropped")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (ScaleOutput(), "broke its contract close(1e-05): error 0.0"),
        (ScaleOutput(factor=1 + 1e-4), "broke its contract"),
        (ExactlyScaled(factor=1 + 5e-5), "broke its contract exact"),
        (Silent(), "without logging"),
        (Crashes(), "ZeroDivisionError: by design"),
        (WritesIntoAList(), "without logging"),
        (CutsTheWire(), "invalid graph"),
        (DropRelu(), "broke its contract"),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_broken_contract_is_rolled_back_and_reported(broken: Pass, reason: str) -> None:
    graph = graph_from(NET)
    oracle = Oracle(graph)
    outcome = Pipeline([broken, ScaleOutput(factor=1.0)]).run(graph, oracle=oracle)
    assert outcome.results[0].status == "rolled-back"
    assert reason in outcome.results[0].detail
    assert outcome.results[1].status == "verified"
    assert oracle.check(outcome.graph, 0.0).passed


def test_the_departing_node_is_named() -> None:
    graph = graph_from(NET)
    outcome = Pipeline([DropRelu()]).run(graph, oracle=Oracle(graph))
    assert "output 'y'" in outcome.results[0].detail
    assert "first seen at 'y'" in outcome.results[0].detail


def test_strict_stops_with_an_error() -> None:
    graph = graph_from(NET)
    with pytest.raises(PassError, match="'scale-output' broke its contract"):
        Pipeline([ScaleOutput()]).run(graph, oracle=Oracle(graph), strict=True)


def test_small_errors_within_the_contract_pass() -> None:
    graph = graph_from(NET)
    outcome = Pipeline([ScaleOutput(factor=1 + 3e-6)]).run(graph, oracle=Oracle(graph), strict=True)
    assert outcome.results[0].status == "verified"
    assert 1e-6 < (outcome.results[0].error or 0) < 1e-5


def test_a_pass_that_means_to_change_becomes_the_new_reference() -> None:
    graph = graph_from(NET)
    outcome = Pipeline([MeansToScale(factor=2.0), ScaleOutput(factor=1.0)]).run(
        graph, oracle=Oracle(graph), strict=True
    )
    assert [r.status for r in outcome.results] == ["verified", "verified"]
    assert outcome.final is None


def test_without_an_oracle_nothing_claims_to_be_verified() -> None:
    outcome = Pipeline([ScaleOutput()]).run(graph_from(NET))
    assert outcome.results[0].status == "unverified"


def test_the_callers_graph_does_not_change() -> None:
    graph = graph_from(NET)
    before = graphopt.to_text(graph)
    Pipeline([ScaleOutput(factor=2.0)]).run(graph)
    assert graphopt.to_text(graph) == before


@dataclass(frozen=True)
class Late(ScaleOutput):
    """Wants to be last."""

    name: ClassVar[str] = "late"
    after: ClassVar[dict[str, str]] = {"scale-output": "it measures the scale"}


@dataclass(frozen=True)
class Early(ScaleOutput):
    """Wants to be first."""

    name: ClassVar[str] = "early"
    before: ClassVar[dict[str, str]] = {"scale-output": "the scale is stale afterwards"}


def test_all_order_violations_are_listed_with_their_reasons() -> None:
    with pytest.raises(UsageError) as caught:
        Pipeline([Late(), ScaleOutput(), Early()])
    text = str(caught.value)
    assert "late must run after scale-output: it measures the scale" in text
    assert "early must run before scale-output: the scale is stale afterwards" in text
    Pipeline([Early(), ScaleOutput(), Late()])


def test_a_users_pass_registers_in_three_lines() -> None:
    graphopt.register(MeansToScale)
    (each,) = graphopt.parse_passes("means-to-scale{factor=3}")
    assert each == MeansToScale(factor=3.0)
    with pytest.raises(UsageError, match="registered already"):
        graphopt.register(type("Twin", (MeansToScale,), {}))
    del graphopt.registry.PASSES["means-to-scale"]


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv (r, w)  y = Conv (c, v)",
        "c = Conv (r, w)  d = Conv (r, v)  y = Add (c, d)",
        "c = Conv (r, w)  y = Add (c, r)",
        "c = Mul (r, k)  y = Conv (c, w)",
        "c = Conv (r, w)  y = Mul (c, k)",
        "c = Pad (r, p)  y = Conv (c, w)",
        "c = Conv (r, w)  d = Conv (r, v)  y = Concat <axis = 1> (c, d)",
    ],
)
def test_unknown_ranks_break_no_pass(body: str) -> None:
    graph = graph_from(
        f"""(float[1,3,8,8] x, int64[k] s) => (float y)
        <float[3,3,1,1] w, float[3,3,1,1] v, float[3,1,1] k, int64[8] p = {{0,0,1,1,0,0,1,1}}>
        {{ r = Reshape (x, s)  {body} }}"""
    )
    outcome = Pipeline(default_passes()).run(graph)
    broken = [f"{r.name} {r.detail}" for r in outcome.results if r.status == "rolled-back"]
    assert not broken


def test_after_a_pass_that_changes_outputs_rounding_is_judged_anew() -> None:
    """The tolerance of the first network says nothing about one that amplifies rounding more."""

    @dataclass(frozen=True)
    class Detour(Pass):
        """relu(x) becomes relu(sin(30 (30 x))), which makes much of the last digit of x."""

        name: ClassVar[str] = "detour"
        numerics: ClassVar[Numerics] = Changes("takes the sine")

        def run(self, graph: Graph, context: Context) -> None:
            like = graph.outputs[0]
            node = like.inputs[0]
            for _ in range(2):
                factor = add_constant(graph, "factor", np.array([30], np.float32))
                node.inputs[0] = add_node(graph, "Mul", [node.inputs[0], factor], like=like)
            node.inputs[0] = add_node(graph, "Sin", [node.inputs[0]], like=like)
            context.rewrote(node, "a detour")

    @dataclass(frozen=True)
    class Shortcut(Pass):
        """30 (30 x) == 900 x."""

        name: ClassVar[str] = "shortcut"
        numerics: ClassVar[Numerics] = Close(1e-5)

        def run(self, graph: Graph, context: Context) -> None:
            first, second = nodes_of(graph, "Mul")
            set_input(second, 1, add_constant(graph, "both", np.array([900], np.float32)))
            bypass(graph, first)
            context.rewrote(first, "merged")

    graph = graph_from("(float[N,64] x) => (float[N,64] y) { y = Relu (x) }")
    outcome = Pipeline([Detour(), Shortcut()]).run(graph, oracle=Oracle(graph), strict=True)
    shortcut = outcome.results[1]
    assert shortcut.status == "verified"
    assert shortcut.error is not None
    assert shortcut.error > 1e-5  # more than the first network's rounding would have allowed
