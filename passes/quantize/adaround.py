"""Rounds every weight up or down so that layers compute what they did, not each to the nearest.

    min over h in {0, 1}   E |f(y) - f(W_r x_r + b)|^2,   W_r = s clip(floor(W / s) + h, low, high)

y is the layer's result in the float network, x_r what it reads in the rounded one, behind layers that
are done already, and f the activation that follows (Nagel et al., "Up or Down? Adaptive Rounding for
Post-Training Quantization", ICML 2020). Rounding to the nearest makes each weight's error small; here
the errors of a row are chosen to cancel on what the layer reads. The relaxation is in
`rounding_variables.py`. The result is a weight on its grid, which `quantize-constants` stores as it is.

A layer keeps the nearest integers where the found ones are no better at positions held out. Not
handled: transposed convolutions, automatic padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from graphopt.data import Data, load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node, Tensor, input_value
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.layers import Layer, activation_behind, float_network, layers
from graphopt.passes.quantize.open_weights import by_weight, give, moved
from graphopt.passes.quantize.patches import (
    groups_of,
    patches_at,
    positions_of,
    results_at,
    rows_of,
    weight_of,
    why_not_patches,
)
from graphopt.passes.quantize.signal import Signal, told
from graphopt.passes.quantize.walk import Walk, piece_of, waves
from graphopt.runtime.run import open_graph

Array = np.ndarray[Any, Any]

_PROOF_BATCHES = 2
_POSITIONS = 4096  # of a layer, over all images
_LARGEST = 1 << 28  # bytes of patches of one layer


@dataclass(frozen=True)
class Adaround(Pass):
    """min over h of E |f(y) - f(s (floor(W / s) + h) x_r + b)|^2: weights rounded up or down together."""

    name: ClassVar[str] = "adaround"
    numerics: ClassVar[Changes] = Changes("rounds weights another way")
    after: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "it chooses integers on that pass's grids"
    }
    before: ClassVar[dict[str, str]] = {
        "quantize-constants": "weights are stored as integers there",
    }

    data: Any = None  # images without labels: see graphopt.data
    preprocess: str = ""
    images: int = 128  # at most
    batch: int = 4
    iterations: int = 1000
    lr: float = 1e-2
    strength: float = 20.0  # of the pull to 0 or 1: lambda, see `rounding_variables.fit`
    seed: int | None = None  # that of the run when left out

    def run(self, graph: Graph, context: Context) -> None:
        reference = float_network(graph, context)
        groups = list(by_weight(layers(graph, reference), context, why_not_patches))
        if not groups:
            return
        if self.data is None:
            raise UsageError("adaround looks at activations: give data=FOLDER (or arrays)")
        data = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.images
        )
        signal = Signal(open_graph(reference), islice(data, _PROOF_BATCHES))
        before = signal.of(open_graph(graph))
        seed = context.seed if self.seed is None else self.seed
        gains = _Rounding(graph, reference, groups, data, self, seed).run(context)
        after = signal.of(open_graph(graph))
        context.proof = f"rounded outputs keep {told(after)}, before {told(before)}"
        context.facts["adaround"] = {"layers": gains, "before": before, "after": after}


@dataclass
class _Samples:
    """What is known of a layer so far: where it is looked at, and what is there."""

    positions: list[Array] = field(default_factory=list)  # by batch
    wanted: list[Array] = field(default_factory=list)
    patches: list[Array] = field(default_factory=list)


class _Rounding:
    """One walk through the network, choosing the rounding of each weight at its last reader."""

    def __init__(
        self,
        graph: Graph,
        reference: Graph,
        groups: list[list[Layer]],
        data: Data,
        options: Adaround,
        seed: int,
    ) -> None:
        self._graph, self._reference, self._options = graph, reference, options
        self._groups = {each.node.name: same for same in groups for each in same}
        self._layers = {each.node.name: each for same in groups for each in same}
        self._order = waves(graph, [each.node for same in groups for each in same])
        self._data = data
        self._samples = {name: _Samples() for name in self._layers}
        self._rng = np.random.default_rng(seed)

    def run(self, context: Context) -> dict[str, float]:
        """Rounds every weight; by how much of its loss each layer's got better."""
        batches = sum(1 for _ in self._data)
        self._walk = Walk(
            self._graph, [[n.inputs[0].name for n in wave] for wave in self._order], self._data
        )
        exact = Walk(
            self._reference,
            [[self._layers[n.name].twin.inputs[0].name for n in w] for w in self._order],
            self._data,
        )
        gains: dict[str, float] = {}
        left = {id(same): len(same) for same in self._groups.values()}
        for wave in self._order:
            self._walk.advance()
            exact.advance()
            self._look(wave, exact, batches)
            for node in wave:
                same = self._groups[node.name]
                left[id(same)] -= 1
                if not left[id(same)]:
                    gains[node.name] = self._choose(same, context)
        return gains

    def _look(self, wave: Sequence[Node], exact: Walk, batches: int) -> None:
        """Samples what the layers of a wave read, and what they should make of it."""
        twins = [self._layers[n.name].twin for n in wave]
        sources = self._walk.values([n.inputs[0].name for n in wave])
        results = exact.values([t.outputs[0].name for t in twins])
        for given, meant in zip(sources, results, strict=False):
            for node, twin in zip(wave, twins, strict=True):
                weight, result = twin.inputs[1].values, meant[twin.outputs[0].name]
                found = self._samples[node.name]
                picked = self._pick(node, positions_of(node, result), weight, batches)
                taps = weight.shape[2:] if node.op == "Conv" else ()
                found.wanted.append(results_at(node, result, picked))
                found.patches.append(patches_at(node, given[node.inputs[0].name], taps, picked))

    def _pick(self, node: Node, count: int, weight: Array, batches: int) -> Array:
        """Positions of one batch, in drawn order."""
        patch = 4 * groups_of(node) * rows_of(node, weight).shape[2]
        most = min(_POSITIONS, max(_LARGEST // patch, 1))
        return self._rng.permutation(count)[: math.ceil(most / batches)]

    def _choose(self, same: Sequence[Layer], context: Context) -> float:
        """Fits one weight to all layers that read it; the share of the loss that is left."""
        import torch

        from graphopt.passes.quantize.rounding_variables import RoundingVariables, fit

        node, pair, options = same[0].node, same[0].rounding, self._options
        assert pair is not None
        values, grid = pair.source.values, pair.grid
        rows = rows_of(node, values)
        scale = np.broadcast_to(grid.scale.reshape(-1), rows.shape[0] * rows.shape[1])
        variables = RoundingVariables(
            torch.from_numpy(np.array(rows, np.float32)),
            torch.from_numpy(np.array(scale.reshape(*rows.shape[:2], 1))),
            grid.low,
            grid.high,
        )
        fitted = fit(
            variables,
            [self._problem(each) for each in same],
            iterations=options.iterations,
            rate=options.lr,
            strength=options.strength,
        )
        share = fitted.found / fitted.nearest if fitted.nearest > 0 else 1.0
        if not share < 1:
            context.refused(node, "no integers found are better than the nearest")
            return 1.0
        integers = weight_of(node, fitted.integers.numpy(), values.shape)
        count = moved(pair, integers)
        give(self._graph, pair, grid.dequantize(integers))
        context.rewrote(
            node,
            f"{count} of {integers.size} weights rounded the other way, "
            f"{100 * (1 - share):.0f} % of the error gone",
        )
        return share

    def _problem(self, layer: Layer) -> Any:
        """The layer's samples in drawn order, which are not needed any longer then."""
        import torch

        from graphopt.passes.quantize.rounding_variables import Problem

        found = self._samples.pop(layer.node.name)
        patches, wanted = (np.concatenate(a, axis=1) for a in (found.patches, found.wanted))
        order = self._rng.permutation(patches.shape[1])
        bias = input_value(layer.node, 2)
        outputs = wanted.shape[0] * wanted.shape[2]
        flat = np.zeros(outputs) if bias is None else bias.reshape(-1)
        added = np.broadcast_to(flat, outputs).reshape(len(wanted), 1, -1)
        return Problem(
            torch.from_numpy(np.array(patches[:, order], np.float32)),
            torch.from_numpy(np.array(wanted[:, order], np.float32)),
            torch.from_numpy(np.array(added, np.float32)),
            _activation(self._reference, layer.twin.outputs[0]),
        )


def _activation(reference: Graph, result: Tensor) -> Any:
    """What follows a product, as a function with a derivative."""
    from graphopt.fx import to_fx

    behind = activation_behind(reference, result)
    if behind is None:
        return lambda values: values
    return to_fx(piece_of(reference, [result.name], [behind.name]))
