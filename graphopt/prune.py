"""Pruning as a job: a model file in, a smaller one out, or only the plan of it.

graphopt.prune("model.onnx", "small.onnx", macs=0.5, data="images/")      # a file
small = graphopt.prune_graph(graph, macs=0.5).graph                       # a graph
plan = graphopt.prune_module(module, (example,), macs=0.5)                # a torch module, in place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph, label
from graphopt.optimize import Optimized, fix_shapes, optimize_file
from graphopt.pass_base import Pass
from graphopt.pipeline import PassResult, Pipeline, Progress, silent
from graphopt.registry import parse_passes, pass_class

# Shapes become numbers and shuffles become slices, which couple less. Nothing here merges
# convolutions with their neighbours: importances read BatchNormalizations.
PREPARATION = (
    "fold-shapes, simplify, fold-shapes, merge-casts, merge-movement, merge-slices, simplify"
)


@dataclass(frozen=True)
class Pruned:
    """A graph without some of its channels, the plan that says which, and the pass's report."""

    graph: Graph
    plan: Plan
    result: PassResult


def pruning(**options: Any) -> Pass:
    """The pass `prune` with options by name (see graphopt.passes.prune.prune).

    Raises:
        UsageError: an option it does not have.
    """
    return pass_class("prune").with_options(options)


def prune_graph(graph: Graph, *, seed: int = 0, prepare: bool = True, **options: Any) -> Pruned:
    """A pruned copy of a graph in normal form.

    Args:
        graph: left as it is.
        seed: of test inputs and of importances that draw.
        prepare: simplify the graph first, which makes more of it prunable. Parameters that are
            folded together lose their names; without it every name stays.
        options: of the pass `prune`: macs, importance, data, ...

    Raises:
        UsageError, BudgetError, PlanError: see there.
    """
    before = parse_passes(PREPARATION) if prepare else []
    outcome = Pipeline([*before, pruning(**options)]).run(graph, seed=seed, strict=True)
    result = outcome.results[-1]
    return Pruned(outcome.graph, result.facts["plan"], result)


def prune_file(
    source: Path,
    target: Path,
    wanted: Pass,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    verify: bool = True,
    measure: bool = True,
    progress: Progress = silent,
) -> Optimized:
    """Prunes the model in `source` and writes the result to `target`.

    The preparation is proven equal like every lossless pass; `wanted`, a pass made by `pruning`,
    proves its removal against the masked network.
    """
    return optimize_file(
        Path(source),
        Path(target),
        passes=[*parse_passes(PREPARATION), wanted],
        input_shapes=input_shapes,
        seed=seed,
        strict=True,
        verify=verify,
        measure=measure,
        progress=progress,
    )


def plan_file(
    source: Path,
    wanted: Pass,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> PassResult:
    """What `prune_file` would remove; nothing is written."""
    graph = _prepared(source, input_shapes, progress)
    return Pipeline([wanted]).run(graph, seed=seed, strict=True, progress=progress).results[0]


def groups_of(
    source: Path,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    share: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The channel groups of the model in `source`, and what has to stay, as plain data.

    Returns:
        {"groups": [{"channels", "layers", "parameters", "through"}],
         "held": [{"layer", "channels", "of", "reason", "where"}]}
    """
    channels = Channels(_prepared(source, input_shapes, progress), share=share)
    return describe(channels)


def describe(channels: Channels) -> dict[str, Any]:
    """The groups of an analysis as plain data (see `groups_of`)."""
    members: list[list[str]] = [[] for _ in channels.groups]
    for member in channels.members:
        for group in channels.groups_on(member.units):
            members[group].append(f"{member.name}[{member.axis}]")
    layers: list[dict[str, None]] = [{} for _ in channels.groups]
    for site in channels.sweep.findings.sites:
        if site.role in ("output", "depthwise"):
            for group in channels.groups_on(channels.units_of(site.labels)):
                layers[group][label(site.node)] = None
    through = channels.couplings()
    return {
        "groups": [
            {
                "channels": group.size,
                "layers": list(layers[group.index]),
                "parameters": members[group.index],
                "through": through[group.index],
            }
            for group in channels.groups
        ],
        "held": [
            {
                "layer": held.layer,
                "channels": len(held.channels),
                "of": held.of,
                "reason": held.reason.what,
                "where": held.reason.where,
            }
            for held in channels.held()
        ],
    }


def _prepared(
    source: Path, input_shapes: Mapping[str, Sequence[int]] | None, progress: Progress
) -> Graph:
    progress("loading")
    graph = load(source)
    fix_shapes(graph, input_shapes or {})
    progress("simplifying")
    return Pipeline(parse_passes(PREPARATION)).run(graph, strict=True).graph
