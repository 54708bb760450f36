"""Rounds the weights of a block together, so that the block computes what it did.

    min over h, s_x   E  m |block(x_r; s (floor(W / s) + h), s_x) - y|^2       block after block

y is what the float network has behind the block, x_r what the block reads in the rounded one, behind blocks
that are done already; h of all its weights and the steps s_x of its activations are trained together
(Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021).
Where `adaround` makes up for errors within a layer, layers of a block make up for each other's here. A
block is a piece with one way in and one way out (`blocks.py`), else a single layer; how it is trained
stands in `block_fit.py`.

What differs from the paper: it weighs squared errors by squared gradients of the loss, image by image,
which takes labels. Here m is the squared gradient of the distance of the outputs to those of the float
network per channel, estimated with random signs on a few images, and 1 unless `fisher` is set: it gains
0.2 dB on ResNet-8 and loses 0.8 dB on YOLOv5n. Steps of activations are trained with the integers, and
only those that nobody outside the block has part in. Blocks are found in the graph, and a step looks
at so many positions, not at so many images.

A block is left as it was where its error did not fall on images held out, measured in ONNX Runtime. Not
handled: what has no differentiable view, and weights that several blocks share.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from graphopt.data import Feeds, load_data
from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.graph import Graph, is_op, is_output, label, rank_of, set_input, sole_reader
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.blocks import Block, blocks
from graphopt.passes.quantize.layers import float_network, layers
from graphopt.passes.quantize.open_weights import by_weight, give, moved
from graphopt.passes.quantize.pairs import Pair, pairs
from graphopt.passes.quantize.signal import Signal, told
from graphopt.passes.quantize.walk import Walk
from graphopt.runtime.run import open_graph

Array = np.ndarray[Any, Any]

_PROOF_BATCHES = 2
_GRADIENT_BATCHES = 8
_HELD_OUT = 8  # one batch of so many, at least one where there are two


@dataclass(frozen=True)
class Reconstruct(Pass):
    """min over h, s_x of E m |block(x_r; s (floor(W / s) + h), s_x) - y|^2: blocks rounded as a whole."""

    name: ClassVar[str] = "reconstruct"
    numerics: ClassVar[Changes] = Changes("rounds weights another way")
    after: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "it chooses integers on that pass's grids",
        "adaround": "which would find nothing left to choose",
    }
    before: ClassVar[dict[str, str]] = {
        "quantize-constants": "weights are stored as integers there",
    }

    data: Any = None  # images without labels: see graphopt.data
    preprocess: str = ""
    images: int = 128  # at most
    batch: int = 4
    iterations: int = 1000  # steps per block
    positions: int = 2048  # of a block's result in a step, from as many images as that takes
    lr: float = 5e-2  # of the rounding variables
    lr_scales: float = 1e-3  # of the activations' steps, in powers of two; 0 leaves them
    strength: float = 20.0  # of the pull to 0 or 1: lambda, see `rounding_variables.py`
    largest: int = 12  # products of a block; 1 for single layers
    fisher: bool = False  # weigh errors by what they do to the outputs
    seed: int | None = None  # that of the run when left out

    def run(self, graph: Graph, context: Context) -> None:
        reference = float_network(graph, context)
        works = list(_works(graph, reference, self.largest, context))
        if not works:
            return
        if self.data is None:
            raise UsageError("reconstruct looks at activations: give data=FOLDER (or arrays)")
        data = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.images
        )
        signal = Signal(open_graph(reference), islice(data, _PROOF_BATCHES))
        before = signal.of(open_graph(graph))
        seed = context.seed if self.seed is None else self.seed
        first = list(islice(data, _GRADIENT_BATCHES))
        weights = _importances(reference, works, first, seed) if self.fisher else {}
        walk = Walk(graph, [[w.entry] for w in works], data)
        exact = Walk(reference, [[w.block.entry.name] for w in works], data)
        shares = {}
        for work in works:
            walk.advance()
            exact.advance()
            place = _Place(graph, walk, exact, work, weights.get(work.block.exit.name))
            shares[work.where] = self._choose(place, seed, context)
        after = signal.of(open_graph(graph))
        context.proof = f"rounded outputs keep {told(after)}, before {told(before)}"
        context.facts["reconstruct"] = {"blocks": shares, "before": before, "after": after}

    def _choose(self, place: _Place, seed: int, context: Context) -> float:
        """Trains a block; the share of its error that is left."""
        from graphopt.passes.quantize.block_fit import Steps, fit_block

        where = place.work.where
        how = Steps(
            iterations=self.iterations,
            positions=self.positions,
            lr=self.lr,
            lr_scales=self.lr_scales,
            strength=self.strength,
            # Of its own for every block, so that it does not matter which others are trained.
            seed=zlib.crc32(f"{seed} {place.work.exit}".encode()),
        )
        piece = place.piece()
        inside = {p.source.name: p for p in pairs(piece)}
        rounding = [inside[p.source.name] for p in place.work.weights]
        scales = _own_scales(place.graph, piece) if self.lr_scales else set()
        try:
            chosen = fit_block(piece, rounding, scales, place.shown, place.importance, how)
        except UnsupportedError as error:
            context.refused(where, str(error))
            return 1.0
        before = place.error()
        count = sum(moved(p, chosen.integers[p.source.name]) for p in place.work.weights)
        undo = place.give(chosen)
        after = place.error()
        if not after < before:
            undo()
            context.refused(where, "no integers found are better than the nearest on other images")
            return 1.0
        total = sum(i.size for i in chosen.integers.values())
        context.rewrote(
            where,
            f"{count} of {total} weights rounded the other way and {len(chosen.scales)} steps moved, "
            f"{100 * (1 - after / before):.0f} % of the error gone",
        )
        return after / before


# --- what there is to do --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """A block of the float network and its counterpart in the rounded one.

    Attributes:
        block: in the float network.
        entry: the tensor of the rounded network before it, rounded where another block's step does that.
        exit: the tensor of the rounded network behind it, rounded if everyone sees it rounded.
        weights: the pairs that round the weights to choose integers of.
    """

    block: Block
    entry: str
    exit: str
    weights: tuple[Pair, ...]

    @property
    def channel_axis(self) -> int:
        """Of what the block gives out, which is made by its last product or of it."""
        is_conv = is_op(self.block.products[-1], "Conv", "ConvTranspose")
        return 1 if is_conv else (rank_of(self.block.exit) or 2) - 1

    @property
    def where(self) -> str:
        """What the log calls it: its first and last product."""
        names = [label(n) for n in self.block.products]
        return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"


def _works(graph: Graph, reference: Graph, most: int, context: Context) -> Iterator[_Work]:
    rounded = [layer for layer in layers(graph, reference) if layer.rounding is not None]
    sets = list(by_weight(rounded, context, lambda _: None))
    # Of all rounded layers, so that the blocks and who trains which step are the same in a second run.
    found = blocks(reference, [layer.twin for layer in rounded], most)
    behind = {b.exit.name: _seen_by_all(graph, b.exit.name) for b in found}
    open_to: dict[int, Pair | None] = {id(each.twin): each.rounding for s in sets for each in s}
    block_of = {id(n): block for block in found for n in block.products}
    for same in sets:
        if any(block_of[id(s.twin)] is not block_of[id(same[0].twin)] for s in same):
            for each in same:
                open_to[id(each.twin)] = None
                context.refused(each.node, "several blocks share its weight")
    for block in found:
        rounding = [open_to.get(id(n)) for n in block.products]
        weights = {id(p.quantize): p for p in rounding if p is not None}
        if weights:
            entry = behind.get(block.entry.name, str(block.entry.name))
            yield _Work(block, entry, behind[block.exit.name], tuple(weights.values()))


def _seen_by_all(graph: Graph, name: str) -> str:
    """The name of what everyone reads of a tensor of the float network: it, or it rounded."""
    tensor = graph.tensors()[name]
    quantize = sole_reader(graph, tensor)
    if not is_op(quantize, "QuantizeLinear"):
        return name
    dequantize = sole_reader(graph, quantize.outputs[0])
    return str(dequantize.outputs[0].name) if is_op(dequantize, "DequantizeLinear") else name


def _own_scales(graph: Graph, piece: Graph) -> set[str]:
    """The scales of activations nobody outside the block has part in."""
    inside = {n.name for n in piece.nodes}
    ends = {t.name for t in piece.outputs}
    whole = graph.tensors()

    def is_own(scale: str) -> bool:
        nodes = whole[scale].outputs
        made = [n.outputs[0] for n in nodes if is_op(n, "DequantizeLinear")]
        outside = [t for t in made if t.name not in ends]
        return all(n.name in inside for n in nodes) and all(
            not is_output(graph, t) and all(r.name in inside for r in t.outputs) for t in outside
        )

    named = {p.quantize.inputs[1].name for p in pairs(piece) if not p.is_weight}
    return {name for name in named if is_own(name)}


def _importances(
    reference: Graph, works: Sequence[_Work], batches: Sequence[Feeds], seed: int
) -> dict[str, Array]:
    """What counts of the results of blocks, where the float network has gradients."""
    from graphopt.passes.quantize.block_fit import importances

    axes = {w.block.exit.name: w.channel_axis for w in works}
    try:
        return importances(reference, axes, batches, seed)
    except UnsupportedError:
        return {}


class _Place:
    """A block with what is known of it, while the walk stands before it."""

    def __init__(
        self, graph: Graph, walk: Walk, exact: Walk, work: _Work, importance: Array | None
    ) -> None:
        from graphopt.passes.quantize.block_fit import Samples

        self.graph, self.work = graph, work
        self._walk = walk
        name = work.block.exit.name
        # Where memory has ended early for one of them, the first batches are left.
        both = zip(walk.feeds(self.piece()), exact.values([name]), strict=False)
        batches = [Samples(feeds, meant[name]) for feeds, meant in both]
        self._held = batches[_HELD_OUT - 1 :: _HELD_OUT] or batches[-1:]
        held = {id(b) for b in self._held}
        self.shown = [b for b in batches if id(b) not in held] or batches
        alike = importance is not None and all(
            b.wanted.ndim == importance.ndim
            and all(m in (1, n) for m, n in zip(importance.shape, b.wanted.shape, strict=True))
            for b in batches
        )
        self.importance = importance if alike else None

    def piece(self) -> Graph:
        """The block as it stands in the rounded network."""
        return self._walk.piece([self.work.exit])

    def error(self) -> float:
        """Of the block as it stands, on batches that are not trained on."""
        runner = open_graph(self.piece())
        weight = 1.0 if self.importance is None else self.importance
        found = [runner.run(b.given)[self.work.exit] - b.wanted for b in self._held]
        return float(np.mean([(weight * np.square(e)).mean() for e in found]))

    def give(self, chosen: Any) -> Callable[[], None]:
        """Puts integers and scales into the network; what is returned takes them back."""
        constants = self.graph.tensors()
        before = [(p.quantize, p.source, p.source.values) for p in self.work.weights]
        old = [(constants[name], constants[name].values) for name in chosen.scales]
        for pair in self.work.weights:
            give(self.graph, pair, pair.grid.dequantize(chosen.integers[pair.source.name]))
        for name, scale in chosen.scales.items():
            constants[name].values = np.asarray(scale, np.float32)

        def undo() -> None:
            for quantize, source, values in before:
                set_input(quantize, 0, source)
                source.values = values
            for tensor, values in old:
                tensor.values = values

        return undo
