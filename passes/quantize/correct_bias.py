"""Takes the mean error of rounding out of every product, through its bias.

    b += E[y] - E[y_r]     per output channel, y the product in float and y_r the rounded one

Rounding a channel's few weights moves its mean, above all in depthwise convolutions, and the mean of
an error hurts more than its spread (Nagel et al., "Data-Free Quantization through Weight Equalization
and Bias Correction", ICCV 2019, section 4.2). Two ways to know it:

    mode=empirical   both means over images. y_r is measured behind layers that are corrected already,
                     which makes up for all there is before; without `sequential` it is what the
                     layer's own roundings make of the float network, one sweep for all layers;
                     that is also what is taken where errors are too large to be followed
    mode=analytic    E[y_r] - E[y] = sum over taps of (w_r - w) E[x], from the means of inputs alone

The means are compared before the activation, where a bias acts, each position with the weight the
activation behind gives it (`bias_shifts.py`). Products without a bias get one; a MatMul's goes into the
addition behind it. Where the outputs keep less than before, nothing is corrected. Not handled: what is
multiplied by computed weights, a MatMul that nothing is added to, and (analytic) transposed
convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.labels import Floats
from graphopt.data import Data, load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    add_constant,
    input_of,
    input_value,
    is_op,
    label,
    set_input,
    sole_reader,
    value_of,
)
from graphopt.pass_base import Changes, Context, Note, Pass
from graphopt.passes.fuse.linear import out_channels
from graphopt.passes.prune.bias import add_bias
from graphopt.passes.quantize.bias_shifts import (
    Place,
    Shifts,
    added,
    analytic,
    at_once,
    in_sequence,
)
from graphopt.passes.quantize.layers import behind_roundings, float_network, layers
from graphopt.passes.quantize.signal import Signal, told, worst
from graphopt.runtime.run import open_graph

_MODES = ("empirical", "analytic")
_JUDGED_BATCHES = 8
_ROUNDING = 1e-6  # of the largest bias: what single precision makes of it


@dataclass(frozen=True)
class CorrectBias(Pass):
    """b += sum f'(y)^2 (y - y_r) / sum f'(y)^2 per channel of every product, f the activation behind."""

    name: ClassVar[str] = "correct-bias"
    numerics: ClassVar[Changes] = Changes("shifts the channels of a rounded network")
    after: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "it corrects what that pass rounds",
        "adaround": "other weights have other errors",
        "reconstruct": "other weights have other errors",
    }
    before: ClassVar[dict[str, str]] = {"quantize-constants": "biases are stored as integers there"}

    data: Any = None  # images without labels: see graphopt.data
    preprocess: str = ""
    images: int = 128  # at most
    batch: int = 4
    mode: str = "empirical"  # or "analytic"
    sequential: bool = True

    def run(self, graph: Graph, context: Context) -> None:
        if self.mode not in _MODES:
            raise UsageError(f"mode={self.mode} is not one of {', '.join(_MODES)}")
        reference = float_network(graph, context)
        found = list(_places(graph, reference, self, context))
        if not found:
            return
        if self.data is None:
            raise UsageError("correct-bias looks at activations: give data=FOLDER (or arrays)")
        data = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.images
        )
        signal = Signal(open_graph(reference), islice(data, _JUDGED_BATCHES))
        before = signal.of(open_graph(graph))
        for name, way in self._ways(graph, reference, found, data):
            undo = _Undo(found)
            notes = [_correct(graph, place, shift) for place, shift in way]
            after = signal.of(open_graph(graph))
            if worst(after) >= worst(before):
                break
            undo.run()
            context.refused(
                "graph",
                f"corrected {name} its outputs keep {told(after)}, and {told(before)} as it is",
            )
        else:
            return
        for note in filter(None, notes):
            context.rewrote(note.where, note.what)
        context.proof = f"rounded outputs keep {told(after)}, before {told(before)}"
        context.facts["bias-correction"] = {"before": before, "after": after}

    def _ways(
        self, graph: Graph, reference: Graph, found: Sequence[Place], data: Data
    ) -> Iterator[tuple[str, Shifts]]:
        """How to find the shifts; the second is for where the outputs get worse by the first."""
        if self.mode == "analytic":
            yield "analytically", analytic(reference, found, data)
            return
        if self.sequential:
            yield "layer after layer", in_sequence(graph, reference, found, data)
        yield "each layer by itself", at_once(reference, found, data)


def _places(
    graph: Graph, reference: Graph, wanted: CorrectBias, context: Context
) -> Iterator[Place]:
    twins = {n.name: n for n in reference.nodes}
    behind = behind_roundings(graph)
    whole = wanted.mode == "empirical" and wanted.sequential  # errors of others, too
    for layer in layers(graph, reference):
        if layer.node.name not in behind or (layer.rounding is None and not whole):
            continue
        node = _addition_behind(graph, layer.node) if layer.node.op == "MatMul" else layer.node
        reason = None
        if node is None or node.name not in twins:
            reason = "it has no bias, and nothing is added to its result"
        elif node is layer.node and input_of(node, 2) is not None and input_value(node, 2) is None:
            reason = "its bias is computed"
        elif wanted.mode == "analytic" and node.op == "ConvTranspose":
            reason = "its positions see different taps: take mode=empirical"
        if reason:
            context.refused(layer.node, reason)
        else:
            yield Place(layer, node, twins[node.name])


def _addition_behind(graph: Graph, product: Node) -> Node:
    """The Add of one constant per channel to a product, rounded or not; None where there is none."""
    node = sole_reader(graph, product.outputs[0])
    if is_op(node, "QuantizeLinear"):
        node = sole_reader(graph, node.outputs[0])
        node = sole_reader(graph, node.outputs[0]) if is_op(node, "DequantizeLinear") else None
    if not is_op(node, "Add"):
        return None
    sizes = [v.shape[-1] for v in map(value_of, node.inputs) if v is not None and v.ndim]
    return node if sizes == [product.outputs[0].shape[-1]] else None


# --- where a shift goes ---------------------------------------------------------------------------


def _correct(graph: Graph, place: Place, shift: Floats) -> Note | None:
    """Adds `shift` to the product; what was done, or None where there is nothing to do."""
    layer, node = place.layer, place.layer.node
    shift = np.where(np.isfinite(shift), shift, 0.0)
    shift[np.abs(shift) <= _ROUNDING * np.abs(added(place.node)).max()] = 0.0
    if not shift.any():
        return None
    if node.op == "MatMul":
        _shift_addition(graph, place.node, shift)
    else:
        if input_of(node, 2) is None:
            zeros = np.zeros(out_channels(layer.twin), np.float32)
            set_input(node, 2, add_constant(graph, f"{label(node)}_bias", zeros))
        add_bias(graph, [node], shift)
    many = np.count_nonzero(shift)
    return Note(label(node), f"{many} channels moved by up to {np.abs(shift).max():.2g}")


def _shift_addition(graph: Graph, addition: Node, shift: Floats) -> None:
    index = next(i for i, t in enumerate(addition.inputs) if isinstance(t, Constant))
    old = addition.inputs[index]
    new = (old.values + shift).astype(old.values.dtype)
    set_input(addition, index, add_constant(graph, old.name, new))


class _Undo:
    """What the nodes that get shifts read now, to be given back to them."""

    def __init__(self, found: Sequence[Place]) -> None:
        self._inputs = [(p.node, list(p.node.inputs)) for p in found]
        constants = [t for _, read in self._inputs for t in read if isinstance(t, Constant)]
        self._values = [(t, t.values) for t in constants]

    def run(self) -> None:
        """Gives it back."""
        for node, inputs in self._inputs:
            node.inputs = inputs
        for tensor, values in self._values:
            tensor.values = values
