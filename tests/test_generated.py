"""No pass may rewrite a generated graph wrongly, twice, or differently the second time."""

from __future__ import annotations

import dataclasses
import os

import onnx
import pytest
from generate import models
from hypothesis import HealthCheck, given, settings

from graphopt.errors import RunError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.proto import to_proto
from graphopt.ir.text import to_text
from graphopt.oracle import Oracle, departure
from graphopt.pass_base import Changes
from graphopt.pipeline import Pipeline
from graphopt.registry import PASSES, default_passes, parse_passes, pass_class
from graphopt.runtime.run import open_proto

# A long run: GRAPHOPT_EXAMPLES=20000 pytest tests/test_generated.py -k default
EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "0"))
QUIETLY = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "derandomize": not EXAMPLES,
}


def _oracle(model: onnx.ModelProto) -> Oracle | None:
    """The judge is the model as generated; None where ONNX Runtime cannot run it (a size of 0)."""
    try:
        return Oracle(normalize(_copy(model)), reference=open_proto(model, {}))
    except RunError:
        return None


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


@given(model=models())
@settings(max_examples=EXAMPLES or 150, **QUIETLY)
def test_default_pipeline(model: onnx.ModelProto) -> None:
    oracle = _oracle(model)
    if oracle is None:
        return
    graph = normalize(_copy(model))
    before = to_text(graph)
    outcome = Pipeline(default_passes()).run(graph, oracle=oracle, strict=True)
    assert outcome.final is not None
    assert outcome.final.passed, outcome.final
    assert len(outcome.graph.nodes) <= len(graph.nodes)
    assert to_text(graph) == before, "the input graph was edited"
    again = Pipeline(default_passes()).run(graph, oracle=oracle, strict=True)
    ours, theirs = (
        to_proto(o.graph)[0].SerializeToString(deterministic=True) for o in (outcome, again)
    )
    assert ours == theirs, "two runs differ"


# Passes that mean to change the outputs are generated for in tests/channels/test_networks.py.
LOSSLESS = [n for n in PASSES if not isinstance(pass_class(n).numerics, Changes)]


@pytest.mark.parametrize("name", LOSSLESS)
@given(model=models(max_nodes=8))
@settings(max_examples=max(EXAMPLES // 20, 15), **QUIETLY)
def test_each_pass_alone_and_again(name: str, model: onnx.ModelProto) -> None:
    oracle = _oracle(model)
    if oracle is None:
        return
    kind = pass_class(name)
    looks_at_images = "data" in {f.name for f in dataclasses.fields(kind)}
    each = kind(data=[s.feeds for s in oracle.samples]) if looks_at_images else kind()
    once = Pipeline([each]).run(normalize(model), oracle=oracle, strict=True)
    twice = Pipeline([each]).run(once.graph, oracle=oracle, strict=True)
    assert twice.results[0].status == "unchanged", twice.results[0].rewrites


@pytest.mark.parametrize("name", ["default", *LOSSLESS])
@given(model=models(max_nodes=10))
@settings(max_examples=max(EXAMPLES // 20, 15), **QUIETLY)
def test_names_stand_for_the_same_values(name: str, model: onnx.ModelProto) -> None:
    """Teachers and students, taps and reports go by the names of tensors on both sides of a pass."""
    oracle = _oracle(model)
    if oracle is None:
        return
    images = [s.feeds for s in oracle.samples]
    passes = [
        dataclasses.replace(p, data=images) if hasattr(p, "data") else p for p in parse_passes(name)
    ]
    graph = normalize(model)
    after = Pipeline(passes).run(graph, oracle=oracle).graph
    for sample in oracle.samples:
        changed = departure(graph, after, sample, 1e-2)
        assert changed is None, f"{changed} holds other values than before"
