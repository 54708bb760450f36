"""Every coupling pattern is pruned exactly, or refused where refusing is right."""

from __future__ import annotations

from collections import defaultdict
from functools import cache

import numpy as np
import pytest
from checking import TOLERANCE, check, simplified
from conftest import graph_from

from benchmarks.patterns import Pattern, patterns
from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import Exporter, to_onnx
from graphopt.ir.graph import Graph

PATTERNS = {p.name: p for p in patterns()}
MODULES = {name: p for name, p in PATTERNS.items() if p.build is not None}
PRUNED = [name for name, p in PATTERNS.items() if p.layers]
# torch.export takes a second for each; these differ most from what the tracer writes.
DYNAMO = [
    "channel shuffle", "GroupNorm, whole groups", "C2f, uneven split", "ViT block",
    "nn.MultiheadAttention", "upsampling to a size read at run time", "tile and expand",
]  # fmt: skip


@cache
def graph_of(pattern: Pattern, exporter: Exporter = "torchscript") -> Graph:
    """The pattern as pruning meets it."""
    if pattern.text:
        return simplified(graph_from(pattern.text, opset=pattern.opset))
    model = to_onnx(pattern.module(), pattern.example(), exporter=exporter)
    return simplified(normalize(model))


def layers_that_lose(channels: Channels) -> int:
    """How many layers have at least two output channels to choose from."""
    units: dict[int, set[int]] = defaultdict(set)
    for site in channels.sweep.findings.sites:
        if site.role == "output":
            units[id(site.node)] |= set(channels.units_of(site.labels).tolist()) - {KEPT_UNIT}
    return sum(len(u) > 1 for u in units.values())


@pytest.mark.parametrize("name", PATTERNS)
def test_reach(name: str) -> None:
    channels = Channels(graph_of(PATTERNS[name]))
    assert layers_that_lose(channels) == PATTERNS[name].layers, list(channels.held())
    assert bool(channels.groups) == (PATTERNS[name].expect == "pruned")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", PRUNED)
def test_exact(name: str, share: float) -> None:
    outcome = check(graph_of(PATTERNS[name]), share, seed=int(10 * share))
    assert outcome.removed
    assert outcome.error <= TOLERANCE
    assert 0.01 < outcome.output < 1e3, "the tolerance says nothing about such numbers"


@pytest.mark.parametrize("name", PRUNED)
def test_exact_with_copies_of_weights(name: str) -> None:
    assert check(graph_of(PATTERNS[name]), 0.5, seed=1, copies=True).error <= TOLERANCE


@pytest.mark.parametrize("name", DYNAMO)
def test_exact_from_torch_export(name: str) -> None:
    graph = graph_of(PATTERNS[name], "dynamo")
    assert layers_that_lose(Channels(graph)) >= PATTERNS[name].layers
    assert check(graph, 0.5).error <= TOLERANCE


@pytest.mark.parametrize("name", ["residual chain", "C2f with shortcut", "flatten to Linear, NHWC"])
def test_a_wrong_channel_is_noticed(name: str) -> None:
    for which in range(5):
        assert check(graph_of(PATTERNS[name]), 0.5, other=which).error > 10 * TOLERANCE


def test_a_wrong_slice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.channels import removal

    right = removal._sliced

    def shifted(values: np.ndarray, cuts: list) -> np.ndarray:
        return right(values, [(a, (p + 1) % values.shape[a] if a else p) for a, p in cuts])

    monkeypatch.setattr(removal, "_sliced", shifted)
    assert check(graph_of(PATTERNS["chain"]), 0.5).error > 10 * TOLERANCE


def test_at_least_nine_of_ten_are_pruned() -> None:
    assert len(PATTERNS) >= 60
    assert len(PRUNED) >= 0.9 * len(PATTERNS)


def test_analysis_leaves_the_graph_alone() -> None:
    from graphopt.ir.text import to_text

    graph = graph_of(PATTERNS["CSP"])
    before = to_text(graph)
    check(graph, 0.5)
    assert to_text(graph) == before
