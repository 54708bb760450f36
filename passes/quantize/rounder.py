"""Rounds a float network for a target: once to find out what it costs, and once for good.

Calibration is done once; which tensors and nodes are left in float can be varied freely after it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.cache import cache_folder
from graphopt.data import Data
from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_value, is_op, nodes_of, sweep
from graphopt.passes.quantize.carry import put_in
from graphopt.passes.quantize.grid import Grid, Kind, channel_grid, grid_for
from graphopt.passes.quantize.observe import Observed, observe, range_of
from graphopt.passes.quantize.observe.curves import curve_behind
from graphopt.passes.quantize.pairs import GridTensors, add_grid, add_pair
from graphopt.passes.quantize.placement import PRODUCTS, Placement, place, weight_axis
from graphopt.passes.quantize.rules import Rules, wide_kind
from graphopt.passes.quantize.speed import Speed

_LARGEST_BIAS = 2.0**30  # in steps of s_x s_w: half of what int32 holds, the rest is for sums
_WORTH_STORING = 0.01  # of all weights


@dataclass(frozen=True)
class Settings:
    """How to round: see the options of `insert-fake-quant`."""

    rules: Rules
    method: str
    percentile: float
    power_of_two: bool = False
    first: bool = False
    last: bool = False
    compress: bool = False
    cache: bool = True


@dataclass(frozen=True)
class Spared:
    """What is spared the target's usual integers although it could have them.

    Attributes:
        nodes: names, operators or globs of nodes that stay in float.
        tensors: names of tensors that are never carried as integers.
        wide: names of tensors that are carried in 16 bits, where they are.
    """

    nodes: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()

    def __or__(self, other: Spared) -> Spared:
        return Spared(
            self.nodes | other.nodes, self.tensors | other.tensors, self.wide | other.wide
        )


class Rounder:
    """A float graph, calibrated; `rounded` copies of it differ in what is spared."""

    def __init__(self, graph: Graph, data: Data, settings: Settings) -> None:
        """Nothing is measured yet; `graph` is not edited and must not be, while this is in use."""
        self.graph, self.data, self.settings = graph, data, settings
        self.observed = Observed({}, 0)
        self._ranges: dict[tuple[str, Kind], tuple[float, float]] = {}
        self._placed: dict[Spared, Placement] = {}
        board = settings.rules.board
        self.speed = Speed(graph, board) if board else None

    def place(self, left: Spared) -> Placement:
        """Where integers are, with ranges known for every tensor there; found out once.

        Raises:
            UnsupportedError, UsageError: see `placement.place` and `observe`.
        """
        if left not in self._placed:
            self._placed[left] = self._place(left)
        return self._placed[left]

    def _place(self, left: Spared) -> Placement:
        without, slower = set(left.tensors), dict[str, str]()

        def placed(names: Collection[str] = ()) -> Placement:
            return place(
                self.graph,
                self.settings.rules,
                keep=left.nodes,
                first=self.settings.first,
                last=self.settings.last,
                without=without,
                slower=slower | dict.fromkeys(names, "it is faster in float"),
            )

        is_settled = self.speed is None
        while True:
            placement = placed()
            if any(n not in self.observed.histograms for n in placement.carried):
                cache = cache_folder("calibration") if self.settings.cache else None
                self.observed = observe(self.graph, list(placement.carried), self.data, cache=cache)
            bad = set(self.observed.not_finite()) & set(placement.carried)
            if bad:
                without |= bad  # NaN and infinities are on no grid
            elif is_settled or self.speed is None:
                return replace(placement, wide=self._wide(placement, left.wide))
            else:
                slower, is_settled = self.speed.slower(placed), True

    def _wide(self, placement: Placement, wanted: frozenset[str]) -> frozenset[int]:
        """The grids that get 16 bits: those of the tensors wanted that all their readers can read so."""
        carried = placement.carried
        narrow = [n for n in placement.nodes if not is_op(n, *self.settings.rules.wide)]
        kept = {carried[t.name] for n in narrow for t in n.inputs if t.name in carried}
        return frozenset(carried[name] for name in wanted if name in carried) - kept

    def rounded(self, left: Spared) -> Graph:
        """A rounded copy of the graph."""
        twin = self.graph.copy()
        self.apply(twin, self.place(left))
        return twin

    def apply(self, graph: Graph, placement: Placement) -> dict[str, Grid]:
        """Puts pairs into a graph equal to this one's; returns the grids by tensor."""
        grids = self._grids(placement)
        tensors = put_in(graph, placement, grids)
        weights = _Weights(graph, self.settings)
        by_name = {n.name: n for n in graph.nodes}
        for node in placement.nodes:
            weights.round(by_name[node.name], tensors)
        if self.settings.compress:
            for node in worth_storing(graph, placement):
                weights.round(node, tensors)
        sweep(graph)
        return {name: grids[number] for name, number in placement.carried.items()}

    def _grids(self, placement: Placement) -> dict[int, Grid]:
        """The grid of every group: the hull of the ranges of its tensors."""
        ranges: dict[int, list[tuple[float, float]]] = {}
        tensors = self.graph.tensors()
        kinds = {k: self._kind(placement, k) for k in placement.carried.values()}
        for name, number in placement.carried.items():
            what = name, kinds[number]
            if what not in self._ranges:
                self._ranges[what] = self._range(tensors[name], kinds[number])
            ranges.setdefault(number, []).append(self._ranges[what])
        return {number: self._grid(found, kinds[number]) for number, found in ranges.items()}

    def _kind(self, placement: Placement, number: int) -> Kind:
        rules = self.settings.rules
        return wide_kind(rules) if number in placement.wide else rules.activation_kind

    def _range(self, tensor: Tensor, kind: Kind) -> tuple[float, float]:
        return range_of(
            self.settings.method,
            self.observed.histograms[tensor.name],
            kind,
            symmetric=self.settings.rules.symmetric,
            percentile=self.settings.percentile,
            curve=curve_behind(self.graph, tensor),
        )

    def _grid(self, ranges: list[tuple[float, float]], kind: Kind) -> Grid:
        return grid_for(
            min(low for low, _ in ranges),
            max(high for _, high in ranges),
            kind,
            symmetric=self.settings.rules.symmetric,
            power_of_two=self.settings.power_of_two,
        )


def worth_storing(graph: Graph, placement: Placement) -> list[Node]:
    """Float products whose weights are a good part of the file."""
    inside = {n.name for n in placement.nodes}
    products = [n for n in nodes_of(graph, *PRODUCTS) if isinstance(n.inputs[1], Constant)]
    sizes = {id(n): n.inputs[1].values.size for n in products}
    least = _WORTH_STORING * sum(sizes.values())
    return [n for n in products if n.name not in inside and sizes[id(n)] >= least]


class _Weights:
    """Rounds the weights of products, each constant once."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self._graph, self._rules = graph, settings.rules
        self._power_of_two = settings.power_of_two
        self._done: dict[tuple[int, int | None], Tensor] = {}

    def round(self, node: Node, grids: dict[str, GridTensors]) -> None:
        """Puts a pair between a product and its constant weight."""
        if not is_op(node, *PRODUCTS) or not isinstance(node.inputs[1], Constant):
            return
        weight = node.inputs[1]
        axis = weight_axis(node) if node.op in self._rules.per_channel else None
        rounded = self._done.get((id(weight), axis))
        if rounded is None:
            grid = self._grid(node, weight.values, axis, grids)
            tensors = add_grid(self._graph, weight.name, grid)
            _, dequantize = add_pair(self._graph, weight, tensors, [node])
            self._done[id(weight), axis] = dequantize.outputs[0]
        else:
            node.inputs[1] = rounded

    def _grid(
        self, node: Node, values: Any, axis: int | None, grids: dict[str, GridTensors]
    ) -> Grid:
        kind = self._rules.weight_kind
        if axis is None:
            top = float(np.abs(values).max(initial=0.0))
            return grid_for(
                -top, top, kind, symmetric=True, narrow=True, power_of_two=self._power_of_two
            )
        grid = channel_grid(values, axis, kind, power_of_two=self._power_of_two)
        return self._with_room_for_bias(node, grid, grids)

    def _with_room_for_bias(self, node: Node, grid: Grid, grids: dict[str, GridTensors]) -> Grid:
        """Coarser where a channel's bias would not fit into 32 bits of s_x * s_w."""
        bias = input_value(node, 2) if node.op != "MatMul" else None
        given = grids.get(node.inputs[0].name)
        if bias is None or given is None or bias.size != grid.scale.size:
            return grid
        least = np.abs(bias.reshape(-1)) / (float(given.scale.values) * _LARGEST_BIAS)
        scale = np.maximum(grid.scale, least).astype(np.float32)
        if self._power_of_two:
            scale = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
        return Grid(grid.kind, scale, grid.zero, grid.axis, grid.narrow)
