"""Rounds weights and activations to integer grids, in a network that is still float.

    y = conv(x, w) + b   becomes   y = r_y(conv(r_x(x), r_w(w)) + b),   r = dequantize(quantize(.))

One mechanism for two uses: runtimes recognize the pairs and compute in integers, and the FX view
trains through them. Grids of activations are chosen from histograms over calibration images, those
of weights from the weights. What is quantized is decided by the rules of a target; what is not, and
why, is in the report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

from graphopt.data import load_data
from graphopt.data.images import METADATA
from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.graph import Graph, Node, label, nodes_of
from graphopt.ir.opset import in_the_way, set_opset
from graphopt.named import unknown
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.grid import Grid, Kind
from graphopt.passes.quantize.placement import PRODUCTS, Placement
from graphopt.passes.quantize.pool_first import pool_first
from graphopt.passes.quantize.precision import Effect, below, effects, fewest
from graphopt.passes.quantize.rounder import Rounder, Settings, Spared, worth_storing
from graphopt.passes.quantize.rules import Rules, rules_for, wide_kind, with_kinds
from graphopt.passes.quantize.signal import Signal, told
from graphopt.runtime.run import open_graph

_PROOF_BATCHES = 2
_OPSET = 21
_BYTE = 8  # bits
FALLBACKS = ("float", "int16")
SLOWER = ("float", "keep")


@dataclass(frozen=True)
class InsertFakeQuant(Pass):
    """y = conv(x, w) becomes y = r(conv(r(x), r(w))), r(x) = s * (clip(round(x / s) + z) - z).

    Weights are symmetric, narrow and per output channel; activations per tensor. First and last
    products, and what follows the last ones, stay in float unless `first` or `last` is set. Not
    handled: models that are quantized already, and 16-bit float models.
    """

    name: ClassVar[str] = "insert-fake-quant"
    numerics: ClassVar[Changes] = Changes("rounds to integer grids")
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "the grid of a weight has to be that of the folded one",
        "fuse-conv-affine": "the grid of a weight has to be that of the folded one",
        "fuse-affine-conv": "the grid of a weight has to be that of the folded one",
        "simplify": "it would compute rounded weights in float",
    }

    data: Any = None  # calibration images: see graphopt.data
    preprocess: str = ""
    images: int = 128  # at most
    batch: int = 4
    target: str = "onnxruntime"  # see graphopt.passes.quantize.rules
    activation: str | None = None  # another integer type than the target's
    weight: str | None = None
    method: str = "mse"  # see graphopt.passes.quantize.observe.ranges
    percentile: float = 99.99
    power_of_two: bool = False
    keep: str = ""  # names, operators or globs of nodes that stay in float, separated by |
    first: bool = False
    last: bool = False
    compress: bool = False  # also store large weights of products that stay in float as integers
    floor: float = 15.0  # decibels: what alone leaves less of the outputs is spared; 0 for nothing
    max_drop: float | None = None  # with `drop`: the fewest are spared so that no more is lost
    slower: str = "float"  # what integers make slower on the target stays so; or "keep": integers
    fallback: str = "float"  # what is spared stays so; or "int16": activations get 16 bits
    cache: bool = True
    # Called with a graph: by how many points it is worse than the float network.
    drop: Any = field(default=None, repr=False)

    def run(self, graph: Graph, context: Context) -> None:
        rules = with_kinds(rules_for(self.target), self.activation, self.weight)
        rules = self._with_speed(rules)
        wide = self._wide(rules)
        kinds = [rules.activation_kind, rules.weight_kind]
        twin = graph.copy()
        _raise_opset(twin, [*kinds, *wide])
        rounder = self._rounder(twin, rules)
        left = Spared(nodes=frozenset(k for k in self.keep.split("|") if k))
        placement = rounder.place(left)
        if not placement.nodes:
            _refuse(placement, context)
            return
        before = Signal(open_graph(graph), islice(rounder.data, _PROOF_BATCHES))
        found: list[Effect] = []
        if self.floor > 0 or self.max_drop is not None:
            left, found = self._search(rounder, left, before)
            placement = rounder.place(left)
        if placement.nodes:
            _raise_opset(graph, [*kinds, *(wide if placement.wide else [])])
        for node in pool_first(graph, placement) if rules.pools_in_bytes else ():
            context.rewrote(
                node, "computes behind the pool, which is so kept from running on bytes"
            )
        grids = rounder.apply(graph, placement)
        _refuse(placement, context)
        wider = placement.widened()
        for node in placement.nodes:
            context.rewrote(node, _computes(node, placement, wider))
        for node in worth_storing(graph, placement) if self.compress else ():
            context.rewrote(node, "computes in float with a rounded weight")
        kept = before.of(open_graph(graph))
        context.proof = f"rounded outputs keep {told(kept)}"
        if self.preprocess:
            graph.metadata[METADATA] = self.preprocess
        context.facts["quantization"] = {
            "target": rules.name,
            "method": self.method,
            "nodes": [n.name for n in placement.nodes],
            "grids": {n: _told(g) for n, g in grids.items()},
            "batches": rounder.observed.batches,
            "sqnr": kept,
            "floor": self.floor,
            "predicted": rounder.speed.told if rounder.speed else {},
            "products": [
                sum(n.op in PRODUCTS for n in placement.nodes),
                sum(1 for _ in nodes_of(graph, *PRODUCTS)),
            ],
            "effects": [
                {**dataclasses.asdict(e), "float": _is_left(e, left), "wide": e.tensor in wider}
                for e in found
            ],
        }

    def _rounder(self, graph: Graph, rules: Rules) -> Rounder:
        if self.data is None:
            raise UsageError("insert-fake-quant calibrates on images: give data=FOLDER (or arrays)")
        data = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.images
        )
        settings = Settings(
            rules=rules,
            method=self.method,
            percentile=self.percentile,
            power_of_two=self.power_of_two,
            first=self.first,
            last=self.last,
            compress=self.compress,
            cache=self.cache,
        )
        return Rounder(graph, data, settings)

    def _with_speed(self, rules: Rules) -> Rules:
        if self.slower not in SLOWER:
            raise UsageError(unknown("choice for what is slower", self.slower, SLOWER))
        kinds = (rules.activation_kind, rules.weight_kind)
        # The model knows kernels of bytes; with other types integers are asked for in spite of their speed.
        is_known = self.slower == "float" and all(k.bits == _BYTE for k in kinds)
        return rules if is_known else dataclasses.replace(rules, board="")

    def _wide(self, rules: Rules) -> list[Kind]:
        """The type activations may get instead of the target's usual one, if any."""
        if self.fallback not in FALLBACKS:
            raise UsageError(unknown("fallback", self.fallback, FALLBACKS))
        return [wide_kind(rules)] if self.fallback == "int16" else []

    def _search(
        self, rounder: Rounder, left: Spared, signal: Signal
    ) -> tuple[Spared, list[Effect]]:
        """What to spare besides, and what every rounding does alone."""
        found = effects(rounder.graph, rounder.rounded(left), signal)
        wide = self.fallback == "int16"
        left = left | below(rounder, left, found, signal, self.floor, wide=wide)
        if self.max_drop is not None:
            if self.drop is None:
                raise UsageError("max-drop needs drop=, which says how much worse a graph is")
            left = fewest(rounder, left, found, self.drop, self.max_drop, wide=wide)
        return left, found


def _computes(node: Node, placement: Placement, wider: Sequence[str]) -> str:
    near = [*node.inputs, *placement.results[id(node)]]
    names = list(dict.fromkeys(repr(t.name) for t in near if t.name in wider))
    return "computes in integers" + (f", {', '.join(names)} in 16 bits" if names else "")


def _is_left(effect: Effect, left: Spared) -> bool:
    if effect.is_weight:
        return bool(left.nodes.intersection(effect.nodes))
    return effect.tensor in left.tensors


def _refuse(placement: Placement, context: Context) -> None:
    for node, reason in placement.refused:
        context.refused(node, reason)


def _raise_opset(graph: Graph, kinds: Sequence[Kind]) -> None:
    """Other integers than those of 8 bits exist from opset 21 on."""
    wide = [k.name for k in kinds if k.bits != 8]
    if not wide or graph.opset >= _OPSET:
        return
    node = in_the_way(graph, _OPSET)
    if node is not None:
        raise UnsupportedError(
            f"{wide[0]} needs opset {_OPSET}, in which {node.op} {label(node)!r} means something "
            f"else than in the model's {graph.opset}: export the model with opset {_OPSET} or later"
        )
    set_opset(graph, _OPSET)


def _told(grid: Grid) -> dict[str, Any]:
    return {"type": grid.kind.name, "scale": float(grid.scale), "zero": int(grid.zero)}
