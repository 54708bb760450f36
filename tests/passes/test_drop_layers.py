"""drop-layers: which blocks go, which sums are none."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.prune.drop_layers import blocks
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import pass_class
from graphopt.runtime.run import open_graph

THREE = """(float[N,8,8,8] x) => (float[N,8,8,8] y)
    <float[8,8,3,3] w0, float[8] g0, float[8] b0, float[8] m0, float[8] var0,
     float[8,8,3,3] w1, float[8] g1, float[8] b1, float[8] m1, float[8] var1,
     float[8,8,3,3] w2, float[8] g2, float[8] b2, float[8] m2, float[8] var2>
    { c0 = Conv <pads = [1,1,1,1]> (x, w0)  n0 = BatchNormalization (c0, g0, b0, m0, var0)
      a0 = Add (x, n0)  r0 = Relu (a0)
      c1 = Conv <pads = [1,1,1,1]> (r0, w1)  n1 = BatchNormalization (c1, g1, b1, m1, var1)
      a1 = Add (n1, r0)
      c2 = Conv <pads = [1,1,1,1]> (a1, w2)  n2 = BatchNormalization (c2, g2, b2, m2, var2)
      y = Add (a1, n2) }"""


def _graph(*gammas: float) -> Graph:
    graph = graph_from(THREE)
    norms = [n for n in graph.nodes if n.op == "BatchNormalization"]
    for norm, gamma in zip(norms, gammas, strict=True):
        norm.inputs[1].values = np.full(8, gamma, np.float32)
        for index in (2, 3):
            norm.inputs[index].values = np.zeros(8, np.float32)
    return graph


def dropped(graph: Graph, **options: object) -> Outcome:
    return Pipeline([pass_class("drop-layers").with_options(options)]).run(graph, strict=True)


def test_finds_the_blocks() -> None:
    assert [len(b.inner) for b in blocks(graph_from(THREE))] == [2, 2, 2]


@pytest.mark.parametrize("data", [False, True])
def test_drops_the_block_that_adds_least(data: bool) -> None:
    graph = _graph(1.0, 0.0, 1.0)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(np.float32)
    outcome = dropped(graph, count=1, **({"data": [{"x": x}]} if data else {}))
    assert [n.op for n in outcome.graph.nodes].count("Conv") == 2
    before, after = (open_graph(g).run({"x": x})["y"] for g in (graph, outcome.graph))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_drops_neighbours_together() -> None:
    outcome = dropped(_graph(1.0, 0.0, 0.0), count=2)
    assert [n.op for n in outcome.graph.nodes].count("Conv") == 1
    assert [t.name for t in outcome.graph.outputs] == ["y"]


def test_drops_all() -> None:
    outcome = dropped(_graph(1.0, 1.0, 1.0), count=3)
    assert "Conv" not in [n.op for n in outcome.graph.nodes]


NO_BLOCK = {
    "two branches": """(float[1,4,4,4] x) => (float[1,4,4,4] y) <float[4,4,1,1] w, float[4,4,1,1] v>
        { a = Conv (x, w)  b = Conv (x, v)  y = Add (a, b) }""",
    "read inside": """(float[1,4,4,4] x) => (float[1,4,4,4] y, float[1,4,4,4] z) <float[4,4,1,1] w>
        { a = Conv (x, w)  z = Relu (a)  b = Sigmoid (a)  y = Add (x, b) }""",
    "broadcasts": """(float[1,4,1,1] x) => (float[1,4,4,4] y)
        { s = Expand (x, s4)  y = Add (x, s) }""".replace("(x, s4)", "(x, k)").replace(
        "=> (float[1,4,4,4] y)", "=> (float[1,4,4,4] y) <int64[4] k = {1, 4, 4, 4}>"
    ),
}


@pytest.mark.parametrize("case", NO_BLOCK)
def test_leaves_other_sums_alone(case: str) -> None:
    with pytest.raises(UsageError, match="has 0 residual blocks"):
        dropped(graph_from(NO_BLOCK[case]))


def test_says_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="has 3 residual blocks that can be dropped; 4 were asked"):
        dropped(_graph(1, 1, 1), count=4)
    with pytest.raises(UsageError, match="at least 1"):
        dropped(_graph(1, 1, 1), count=0)
    plain = """(float[1,4,4,4] x) => (float[1,4,4,4] y) <float[4,4,1,1] w>
        { a = Conv (x, w)  y = Add (x, a) }"""
    with pytest.raises(UsageError, match="no BatchNormalization to be judged by"):
        dropped(graph_from(plain))
