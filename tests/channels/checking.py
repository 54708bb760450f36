"""The check every test here makes: the pruned network equals the original with channels zeroed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.channels.masking import masked
from graphopt.channels.removal import remove
from graphopt.errors import GraphError
from graphopt.ir.graph import Graph
from graphopt.ir.proto import to_proto
from graphopt.ir.verify import verify
from graphopt.oracle import errors_of
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION
from graphopt.registry import parse_passes
from graphopt.runtime.run import Feeds, open_graph
from graphopt.samples import draw

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What came of removing some units: the worst error against the masked original."""

    error: float
    removed: int
    output: float  # how large the masked original's outputs are: of zeros, anything is right


def simplified(graph: Graph) -> Graph:
    """The graph as pruning meets it."""
    return Pipeline(parse_passes(PREPARATION)).run(graph).graph


def some_units(channels: Channels, share: float, seed: int) -> Vector:
    """A random share of every group, at least one left in each."""
    rng = np.random.default_rng(seed)
    chosen = [np.zeros(0, np.int64)]
    for group in channels.groups:
        count = min(int(np.ceil(group.size * share)), group.size - 1)
        chosen.append(rng.choice(group.units, count, replace=False))
    return np.sort(np.concatenate(chosen))


def check(
    graph: Graph, share: float, seed: int = 0, *, other: int | None = None, copies: bool = False
) -> Outcome:
    """Removes units from a copy of `graph` and compares with the masked original.

    Args:
        graph: left as it is.
        share: how much of every group goes.
        seed: which.
        other: takes a unit of the mask for another one, which has to be noticed.
        copies: weights that are read twice are not shared.
    """
    channels = Channels(graph, share=not copies)
    units = some_units(channels, share, seed)
    expected = masked(channels, units if other is None else _another(channels, units, other))
    pruned = graph.copy()
    remove(Channels(pruned, share=not copies), units)
    if _is_valid(graph):
        verify(pruned)
    check_shapes(pruned)
    feeds = inputs_of(graph, seed)
    before, after = (open_graph(each, threads=1).run(feeds) for each in (expected, pruned))
    error = max(errors_of(before, after).values())
    size = max(float(np.abs(v).max()) for v in before.values() if v.size)
    return Outcome(error, len(units), size)


def inputs_of(graph: Graph, seed: int = 0) -> Feeds:
    """Random inputs: two in the batch, small images where height and width are free."""
    names = {d: a for t in graph.inputs for a, d in enumerate(t.shape) if not isinstance(d, int)}
    sizes = {name: 2 if axis == 0 else 6 for name, axis in names.items()}
    return draw(graph, sizes, np.random.default_rng(seed))


def _is_valid(graph: Graph) -> bool:
    """onnx's checker refuses a few operators that ONNX Runtime runs (GroupNormalization of 18)."""
    try:
        verify(graph)
    except GraphError:
        return False
    return True


def _another(channels: Channels, units: Vector, which: int) -> Vector:
    """One removed unit changed for one that stays, of the same group."""
    unit = units[which % len(units)]
    group = channels.groups[channels.group_of_unit[unit]]
    staying = np.setdiff1d(group.units, units)
    return np.union1d(np.setdiff1d(units, [unit]), staying[:1])


def check_shapes(graph: Graph) -> None:
    """The shapes in the graph are those onnx infers for it."""
    model, _ = to_proto(graph)
    told = {v.name: _dims(v) for v in model.graph.value_info}
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for info in inferred.graph.value_info:
        ours, theirs = told.get(info.name), _dims(info)
        if ours is None or theirs is None:
            continue
        assert len(ours) == len(theirs), f"{info.name}: {ours}, but inferred {theirs}"
        for mine, found in zip(ours, theirs, strict=True):
            both = isinstance(mine, int) and isinstance(found, int)
            assert not both or mine == found, f"{info.name}: {ours}, but inferred {theirs}"


def _dims(info: onnx.ValueInfoProto) -> list[Any] | None:
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
