"""By how much the channels of rounded products are off: the shifts that `correct-bias` adds.

    shift = sum f'(y)^2 (y - y_r) / sum f'(y)^2     per channel, over images and positions

y is the result in the float network, y_r in the rounded one, f the activation that follows. The slope
counts what f lets through: an error far below 0 is nothing behind a Relu or a SiLU, and a plain mean
would shift what is above for its sake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.channels.labels import Floats
from graphopt.data import Data
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    Variable,
    add_constant,
    add_node,
    is_op,
    producer,
    rank_of,
    sweep,
    value_of,
)
from graphopt.passes.quantize.absorb_bias import contribution
from graphopt.passes.quantize.layers import Layer, activation_behind
from graphopt.passes.quantize.pairs import add_grid, add_pair, rounded_input
from graphopt.passes.quantize.probe import Probe, probed
from graphopt.passes.quantize.walk import Walk, piece_of, waves
from graphopt.runtime.run import open_graph

Array: TypeAlias = "np.ndarray[Any, Any]"

_STEP = 1e-2  # for differences in place of derivatives
_DEAD = 1e-6  # of the weight of the channel with most


@dataclass(frozen=True)
class Place:
    """A layer, and the nodes of both networks that give out its product with what is added to it."""

    layer: Layer
    node: Node
    twin: Node

    @property
    def axis(self) -> int:
        """Of the result's channels."""
        return self.layer.channel_axis


Shifts = Iterator[tuple[Place, Floats]]


def in_sequence(graph: Graph, reference: Graph, found: Sequence[Place], data: Data) -> Shifts:
    """The errors of all that is rounded; every shift is to be added before the next is asked for."""
    groups = _groups(graph, found)
    rounded = Walk(graph, [[p.layer.source.name for p in group] for group in groups], data)
    exact = Walk(reference, [[p.layer.twin.inputs[0].name for p in g] for g in groups], data)
    for group in groups:
        rounded.advance()
        exact.advance()
        errors = [_Error(reference, place) for place in group]
        results = rounded.values([p.node.outputs[0].name for p in group])
        wanted = exact.values([p.twin.outputs[0].name for p in group])
        # Where memory has ended early for one of them, the first batches are left.
        for reached, meant in zip(results, wanted, strict=False):
            for place, error in zip(group, errors, strict=True):
                error.add(meant[place.twin.outputs[0].name], reached[place.node.outputs[0].name])
        yield from zip(group, (e.shift() for e in errors), strict=True)


def at_once(reference: Graph, places: Sequence[Place], data: Data) -> Shifts:
    """The errors of each layer's own roundings, from copies of the layers in the float network."""
    found = [p for p in places if p.layer.rounding is not None]
    twin = reference.copy()
    by_name = {n.name: n for n in twin.nodes}
    copies = {p.node.name: _rounded_beside(twin, by_name[p.layer.node.name], p) for p in found}
    sweep(twin)
    groups = _groups(twin, found)
    walk = Walk(twin, [[p.layer.twin.inputs[0].name for p in group] for group in groups], data)
    for group in groups:
        walk.advance()
        errors = [_Error(reference, place) for place in group]
        names = [(p.twin.outputs[0].name, copies[p.node.name]) for p in group]
        for values in walk.values([n for both in names for n in both]):
            for (meant, reached), error in zip(names, errors, strict=True):
                error.add(values[meant], values[reached])
        for place, error in zip(group, errors, strict=True):
            yield place, error.shift() + added(place.twin) - added(place.node)


def _groups(graph: Graph, found: Sequence[Place]) -> list[list[Place]]:
    by_name = {place.layer.node.name: place for place in found}
    nodes = [n for n in graph.nodes if n.name in by_name]
    return [[by_name[n.name] for n in wave] for wave in waves(graph, nodes)]


def _rounded_beside(graph: Graph, node: Node, place: Place) -> str:
    """The result of a copy of a float product (and the addition to it) with rounded operands."""
    rounding, given = place.layer.rounding, rounded_input(place.layer.node, 0)
    assert rounding is not None
    weight = rounding.grid.rounded(rounding.source.values)
    source, out = node.inputs[0], node.outputs[0]
    inputs = [source, add_constant(graph, f"{rounding.source.name}_rounded", weight)]
    result = add_node(graph, node.op, [*inputs, *node.inputs[2:]], like=out, attrs=node.attrs)
    if given is not None:
        grid = add_grid(graph, source.name, given.grid)
        add_pair(graph, source, grid, [producer(result)])
    if node.op == "MatMul":
        (addition,) = out.outputs
        inputs = [result if t is out else t for t in addition.inputs]
        result = add_node(graph, "Add", inputs, like=addition.outputs[0])
    graph.outputs.append(result)  # or it would be swept away
    return str(result.name)


def analytic(reference: Graph, places: Sequence[Place], data: Data) -> Shifts:
    """What rounded weights make of mean inputs."""
    found = [p for p in places if p.layer.rounding is not None]
    probes = [(p.layer.twin.inputs[0].name, _mean_along(p.axis)) for p in found]
    batches = list(probed(reference, probes, data))
    for k, place in enumerate(found):
        mean = np.mean([np.asarray(b[k], np.float64) for b in batches], axis=0)
        layer, rounding = place.layer, place.layer.rounding
        assert rounding is not None
        off = rounding.grid.rounded(rounding.source.values) - layer.twin.inputs[1].values
        error = gs.Node(layer.node.op, "", dict(layer.node.attrs), [Variable.empty()], [])
        error.inputs.append(Constant("error", off))
        yield place, -contribution(error, mean) + added(place.twin) - added(place.node)


def _mean_along(axis: int) -> Probe:
    def probe(graph: Graph, tensor: Tensor) -> Tensor:
        over = [a for a in range(rank_of(tensor) or 0) if a != axis]
        axes = add_constant(graph, f"{tensor.name}_axes", np.array(over, np.int64))
        attrs = {"keepdims": 0}
        return add_node(graph, "ReduceMean", [tensor, axes], like=tensor, attrs=attrs, shape=[None])

    return probe


class _Error:
    """The mean of y - y_r per channel, each position with the weight f'(y)^2, batch by batch."""

    def __init__(self, reference: Graph, place: Place) -> None:
        out = place.twin.outputs[0]
        behind = activation_behind(reference, out)
        self._axis = place.axis
        self._name = out.name
        self._curve = (
            None if behind is None else open_graph(piece_of(reference, [out.name], [behind.name]))
        )
        self._sums: list[Floats] = []
        self._weights: list[Floats] = []

    def add(self, meant: Array, reached: Array) -> None:
        """One batch of results, float and rounded."""
        weight = np.square(self._slope(meant))
        over = tuple(a for a in range(meant.ndim) if a != self._axis)
        error = weight * (meant - reached)
        self._sums.append(error.sum(axis=over, dtype=np.float64))
        self._weights.append(weight.sum(axis=over, dtype=np.float64))

    def _slope(self, values: Array) -> Array:
        if self._curve is None:
            return np.ones_like(values)
        ends = [self._curve.run({self._name: values + d}) for d in (_STEP, -_STEP)]
        (above,), (below,) = (end.values() for end in ends)
        return np.asarray((above - below) / np.float32(2 * _STEP))

    def shift(self) -> Floats:
        """What to add; 0 for channels of which nothing is let through."""
        sums, weights = np.asarray(self._sums), np.asarray(self._weights)
        total = weights.sum(axis=0)
        alive = total > _DEAD * total.max(initial=0)
        return np.where(alive, sums.sum(axis=0) / np.where(alive, total, 1.0), 0.0)


def added(node: Node) -> Floats:
    """What a product's bias (or the addition behind it) adds, as one number or one per channel."""
    constants = node.inputs if is_op(node, "Add") else node.inputs[2:]
    values = next((v for v in map(value_of, constants) if v is not None), np.zeros(1))
    return np.asarray(values.reshape(-1), np.float64)
