"""lower-scatter: assignments to slices, as exporters write them, become one Gather."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import graph_from, run_pass

from graphopt.pass_base import Context
from graphopt.registry import pass_class
from tests.runtime.lower.interpreter import lowered
from tests.runtime.lower.test_lowered_networks import _equal

REWRITES = {
    "rows": """(float[4,3] x, float[2,3] u) => (float[4,3] y) <int64[2,1] i = {2, 0}>
        { y = ScatterND (x, i, u) }""",
    "elements_and_the_last_one_counts": """(float[4,3] x, float[3] u) => (float[4,3] y)
        <int64[3,2] i = {2, 0, -1, -2, 2, 0}> { y = ScatterND (x, i, u) }""",
    "everything": """(float[2,3] x, float[2,3] u) => (float[2,3] y) <int64[2,1] i = {0, 1}>
        { a = Relu (x)  b = ScatterND (a, i, u)  y = Neg (b) }""",
    "along_an_axis": """(float[3,4] x, float[3,2] u) => (float[3,4] y)
        <int64[3,2] i = {0, 3, -1, 1, 2, 0}> { y = ScatterElements <axis = 1> (x, i, u) }""",
    "fewer_rows": """(float[3,4] x, float[1,4] u) => (float[3,4] y)
        <int64[1,4] i = {0, 2, -1, 1}> { y = ScatterElements (x, i, u) }""",
    "integers": """(int64[4] x, int64[2] u) => (int64[4] y) <int64[2,1] i = {3, 1}>
        { y = ScatterND (x, i, u) }""",
}

REFUSALS = {
    "added": (
        """(float[4,3] x, float[2,3] u) => (float[4,3] y) <int64[2,1] i = {2, 0}>
        { y = ScatterND <reduction = "add"> (x, i, u) }""",
        "combined",
    ),
    "places_at_run_time": (
        """(float[4,3] x, int64[2,1] i, float[2,3] u) => (float[4,3] y)
        { y = ScatterND (x, i, u) }""",
        "computed at run time",
    ),
    "size_unknown": (
        """(float[N,3] x, float[2,3] u) => (float[N,3] y) <int64[2,1] i = {2, 0}>
        { y = ScatterND (x, i, u) }""",
        "size is not known",
    ),
}


@pytest.mark.parametrize("case", REWRITES)
def test_gathers(case: str, tmp_path: Path) -> None:
    ran = run_pass("lower-scatter", REWRITES[case])
    assert ran.result.status == "verified"
    assert not any("Scatter" in n.op for n in ran.graph.nodes)
    if case != "integers":
        _equal(ran.graph, "avx2", tmp_path)
    else:
        assert lowered(ran.graph).steps


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    context = Context()
    pass_class("lower-scatter")().run(graph_from(text), context)
    assert not context.rewrites
    assert reason in context.refusals[0].what
