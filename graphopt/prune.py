"""Pruning as a job: a model file in, a smaller one out, or only the plan of it.

graphopt.prune("model.onnx", "small.onnx", macs=0.5, data="images/")      # a file
small = graphopt.prune_graph(graph, macs=0.5).graph                       # a graph
plan = graphopt.prune_module(module, (example,), macs=0.5)                # a torch module, in place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan
from graphopt.errors import GraphoptError, PlanError
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
KEEPING_NAMES = (
    "fold-shapes, simplify{keep-parameters=true}, fold-shapes, merge-casts, merge-movement, "
    "merge-slices, simplify{keep-parameters=true}"
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


def prune_graph(
    graph: Graph, *, seed: int = 0, preparation: str = PREPARATION, **options: Any
) -> Pruned:
    """A pruned copy of a graph in normal form.

    Args:
        graph: left as it is.
        seed: of test inputs and of importances that draw.
        preparation: lossless passes that run first and make more of the graph prunable. The
            default folds some parameters into new ones; KEEPING_NAMES does not.
        options: of the pass `prune`: macs, importance, data, ...

    Raises:
        UsageError, BudgetError, PlanError: see there.
    """
    before = parse_passes(preparation) if preparation else []
    passes = [*before, pruning(**options)]
    outcome = Pipeline(passes).run(graph, seed=seed, strict=True)
    result = outcome.results[-1]
    return Pruned(outcome.graph, result.facts["plan"], result)


def prune_module(
    module: Any,
    example_inputs: Any,
    *,
    optimizer: Any = None,
    seed: int = 0,
    **options: Any,
) -> Pruned:
    """Prunes a torch module in place: parameters, the sizes of its layers, and the optimizer's state.

    Args:
        module: `torch.nn.Module`; put back as it was when anything fails.
        example_inputs: one tensor or a tuple of them, to export and to compare with.
        optimizer: over the module's parameters; its state is sliced alike.
        seed, options: as for `prune_graph`.

    Returns:
        The pruned graph and the plan; the plan names the module's parameters.

    Raises:
        ExportError: torch cannot export the module.
        PlanError: the module's own code depends on sizes the plan changes.
    """
    from graphopt.frontends import from_torch

    examples = (
        tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    )
    graph = from_torch(module, examples)
    try:
        return _prune_module(module, graph, examples, optimizer, seed, options)
    except PlanError:
        # Its code has sizes of its own: only what parameters alone decide can go.
        return _prune_module(
            module, graph, examples, optimizer, seed, {**options, "rewrite": False}
        )


def _prune_module(
    module: Any,
    graph: Graph,
    examples: tuple[Any, ...],
    optimizer: Any,
    seed: int,
    options: Mapping[str, Any],
) -> Pruned:
    from graphopt.frontends.slim_module import difference, restored_on_error, slim, take_values
    from graphopt.runtime.run import open_graph

    found = prune_graph(graph, seed=seed, preparation=KEEPING_NAMES, **options)
    own = {n for n, _ in [*module.named_parameters(), *module.named_buffers()]}
    others = tuple(n for n in found.plan.keep if n not in own)
    found = replace(found, plan=replace(found.plan, others=others))
    try:
        with restored_on_error(module, optimizer):
            slim(module, found.plan, optimizer)
            take_values(module, found.graph)
            _must_agree(
                difference(module, found.graph, examples, lambda g, f: open_graph(g).run(f))
            )
    except GraphoptError:
        raise
    except Exception as error:  # whatever the user's own forward() raises
        raise PlanError(
            f"the slimmed module does not run ({type(error).__name__}: {error}): its forward() has "
            "sizes written into its code. Use the pruned graph (graphopt.prune_graph of "
            "graphopt.from_torch), or exclude the layers it is about"
        ) from error
    return found


def _must_agree(error: float) -> None:
    if not error <= 1e-3:
        raise PlanError(
            f"the slimmed module's outputs differ from the pruned graph's by {error:.2g} of their "
            "size: its forward() depends on sizes the plan changes"
        )


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
