"""No random network may be pruned wrongly, and none may crash the analysis or the removal.

A long run: GRAPHOPT_EXAMPLES=20000 pytest tests/channels/test_networks.py
"""

from __future__ import annotations

import os

import onnx
import pytest
from checking import check, inputs_of, simplified
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks_more import networks

from graphopt.channels.groups import Channels
from graphopt.errors import RunError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph
from graphopt.runtime.run import open_graph

EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "0"))
# A wrong channel makes errors near 1. Random networks amplify rounding more than trained ones.
TOLERANCE = 2e-3


def _runs(graph: Graph) -> bool:
    try:
        open_graph(graph).run(inputs_of(graph))
    except RunError:
        return False
    return True


@given(
    model=networks(),
    share=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    copies=st.booleans(),
    first_simplified=st.booleans(),
)
@settings(
    max_examples=EXAMPLES or 250,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize=not EXAMPLES,
)
def test_exact_or_refused(
    model: onnx.ModelProto, share: float, copies: bool, first_simplified: bool
) -> None:
    graph = normalize(model)
    if not _runs(graph):
        return
    graph = simplified(graph) if first_simplified else graph
    outcome = check(graph, share, seed=len(graph.nodes), copies=copies)
    assert outcome.error <= TOLERANCE


@pytest.mark.skipif(bool(EXAMPLES), reason="counts what the short run draws")
def test_most_networks_lose_something() -> None:
    drawn: list[bool] = []

    @given(model=networks())
    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    def look(model: onnx.ModelProto) -> None:
        drawn.append(bool(Channels(normalize(model)).groups))

    look()
    assert sum(drawn) > len(drawn) / 2
