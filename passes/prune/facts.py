"""What a round of pruning reports: widths of layers, what is left of groups, several rounds as one."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.channels.plan import Plan
from graphopt.ir.graph import Constant, Graph, label
from graphopt.passes.prune.allocation import layers_of


def add_up(facts: dict[str, Any], earlier: dict[str, Any]) -> None:
    """What two rounds did together, told as one."""
    if "plan" in earlier and "plan" in facts:
        facts["plan"] = earlier["plan"].then(facts["plan"])
    before = earlier["channels"]
    facts["channels"] = {
        name: (before.get(name, (old, old))[0], new)
        for name, (old, new) in facts["channels"].items()
    }
    widths = facts["channels"]
    for group in facts["groups"]:
        if group["layers"] and group["layers"][0] in widths:
            group["before"] = max(group["before"], widths[group["layers"][0]][0])


def layer_widths(channels: Channels, removed: Vector) -> dict[str, tuple[int, int]]:
    """Output channels of every linear layer before and after."""
    gone = channels.gone(removed)
    return {
        label(s.node): (len(s.labels), len(s.labels) - int(gone[channels.units_of(s.labels)].sum()))
        for s in channels.sweep.findings.sites
        if s.role == "output"
    }


def group_map(channels: Channels, removed: Vector) -> list[dict[str, Any]]:
    """What is left of every group, and the layers whose output channels it is."""
    gone = channels.gone(removed)
    return [
        {
            "layers": layers,
            "before": group.size,
            "after": group.size - int(gone[group.units].sum()),
        }
        for group, layers in zip(channels.groups, layers_of(channels), strict=True)
    ]


def made_since(graph: Graph, known: Container[str]) -> tuple[str, ...]:
    """The constants of a graph that have none of these names: biases that make up for what is gone."""
    own = graph.tensors()
    return tuple(sorted(n for n, t in own.items() if isinstance(t, Constant) and n not in known))


def groups_after(graph: Graph, plan: Plan) -> dict[str, int]:
    """The number of groups of every grouped convolution the plan touches, after it."""
    return {
        n.inputs[1].name: int(n.attrs["group"])
        for n in graph.nodes
        if n.op in ("Conv", "ConvTranspose")
        and n.attrs.get("group", 1) != 1
        and n.inputs[1].name in plan.keep
    }
