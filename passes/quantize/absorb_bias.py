"""Moves the part of a bias that a Relu always lets through into the layer behind it.

    w2 relu(w1 x + b1) + b2 == w2 relu(w1 x + b1 - c) + (b2 + w2 c)   wherever w1 x + b1 >= c

(Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019,
section 4.1.3): the activations in between need a smaller range. c is measured on data, per channel:

    bound=min     c = max(0, least value of w1 x + b1)        exact on the data
    bound=sigma   c = max(0, mean - 3 standard deviations)    the paper's, a little off the exact

Not handled: readers that pad with zeros, which would stay zeros where the rest moves, transposed
convolutions, and anything but pooling and flattening between the Relu and its readers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.labels import Floats
from graphopt.data import load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    is_op,
    is_output,
    label,
    nodes_of,
    produced_by,
    rank_of,
    sole_reader,
)
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.fuse.linear import (
    LINEAR_OPS,
    bias_of,
    out_channels,
    pads_of,
    set_bias,
    why_not_scalable,
)
from graphopt.passes.quantize.probe import (
    largest_error,
    mean_per_channel,
    mean_square_per_channel,
    probed,
    smallest_per_channel,
)
from graphopt.runtime.run import Feeds

_BOUNDS = ("min", "sigma")
# f(x + c) == f(x) + c for a c that is the same at all positions of a channel.
_MOVES_ALONG = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Identity")
_LEAST = 0.05  # of a channel's deviation: less is not worth moving
_ROUNDING = 1e-3  # of a channel's mean


@dataclass(frozen=True)
class _Place:
    """A Relu, the layer before it and those that read it, each with how often a channel comes."""

    relu: Node
    layer: Node
    readers: tuple[tuple[Node, int], ...]


class _RefusedError(Exception):
    """Why the channels behind a Relu cannot be shifted."""


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """w2 relu(w1 x + b1) + b2 == w2 relu(w1 x + b1 - c) + (b2 + w2 c) wherever w1 x + b1 >= c."""

    name: ClassVar[str] = "absorb-bias"
    numerics: ClassVar[Changes] = Changes("exact where values are as large as on the data")
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "biases are what a BatchNormalization leaves behind when it is folded",
        "equalize": "it makes biases larger, and this one takes that off the activations",
    }

    data: Any = None  # images: see graphopt.data
    preprocess: str = ""
    batch: int = 8
    limit: int = 256
    bound: str = "min"  # or "sigma"

    def run(self, graph: Graph, context: Context) -> None:
        if self.bound not in _BOUNDS:
            raise UsageError(f"bound={self.bound} is not one of {', '.join(_BOUNDS)}")
        places = list(_places(graph, context))
        if not places:
            return
        if self.data is None:
            raise UsageError("absorb-bias looks at activations: give data=FOLDER (or arrays)")
        feeds = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.limit
        )
        before = graph.copy()
        largest: dict[str, float] = {}
        shifts = _shifts(graph, [p.layer.outputs[0].name for p in places], feeds, self.bound)
        for place, shift in zip(places, shifts, strict=True):
            if not shift.any():
                context.refused(place.relu, "none of its channels is always above 0 on the data")
                continue
            _move(graph, place, shift)
            largest[label(place.relu)] = float(shift.max())
            context.rewrote(
                place.relu,
                f"{np.count_nonzero(shift)} of {len(shift)} channels moved down by up to "
                f"{shift.max():.3g}",
            )
        if largest:
            error = largest_error(before, graph, feeds)
            context.facts["absorbed"] = {"largest": largest, "error": error}
            context.proof = f"the outputs on the data differ by at most {error:.2g}"


def _places(graph: Graph, context: Context) -> Iterable[_Place]:
    for relu in nodes_of(graph, "Relu"):
        layer = produced_by(relu.inputs[0], *LINEAR_OPS)
        if layer is None:
            continue
        try:
            if sole_reader(graph, layer.outputs[0]) is not relu:
                raise _RefusedError(f"the result of {layer.op} {layer.name} has a second reader")
            if reason := why_not_scalable(layer):
                raise _RefusedError(reason)
            _check_rank(layer)
            readers = tuple(_readers(graph, relu.outputs[0], 1))
        except _RefusedError as refused:
            context.refused(relu, str(refused))
        else:
            if readers:
                yield _Place(relu, layer, readers)


def _readers(graph: Graph, tensor: Tensor, times: int) -> Iterable[tuple[Node, int]]:
    """The layers a tensor leads to, and how many of their inputs each channel is repeated in."""
    if is_output(graph, tensor):
        raise _RefusedError(f"its result {tensor.name!r} is an output of the model")
    for node in tensor.outputs:
        if graph.is_inner(node):
            raise _RefusedError("its result is read in a subgraph")
        if is_op(node, *LINEAR_OPS):
            if reason := _why_not_reader(node, tensor):
                raise _RefusedError(reason)
            yield node, times
        elif is_op(node, *_MOVES_ALONG) and not _counts_padding(node):
            yield from _readers(graph, node.outputs[0], times)
        elif is_op(node, "Flatten", "Reshape", "Squeeze") and rank_of(node.outputs[0]) == 2:
            yield from _readers(graph, node.outputs[0], times * _positions(node))
        else:
            raise _RefusedError(f"its reader {node.op} {node.name} would see the change")


def _why_not_reader(node: Node, tensor: Tensor) -> str | None:
    if node.inputs[0] is not tensor or any(t is tensor for t in node.inputs[1:]):
        return f"{node.op} {node.name} reads it as a weight or a bias"
    if reason := why_not_scalable(node):
        return reason
    if node.op == "ConvTranspose":
        return f"ConvTranspose {node.name} sums another number of taps at every position"
    padded = node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if node.op == "Conv" and (padded or any(pads_of(node))):
        return f"Conv {node.name} pads with zeros, which would have to move as well"
    _check_rank(node)
    return None


def _check_rank(node: Node) -> None:
    if node.op in ("Gemm", "MatMul") and rank_of(node.outputs[0]) != 2:
        raise _RefusedError(f"{node.op} {node.name} works on more than two dimensions")
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        raise _RefusedError(f"Gemm {node.name} reads its input transposed")


def _counts_padding(pool: Node) -> bool:
    """Whether zeros around the edges are part of an average."""
    padded = any(pads_of(pool)) or pool.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return bool(padded and pool.attrs.get("count_include_pad", 0))


def _positions(node: Node) -> int:
    """How many positions a channel has before it is laid out flat."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    sizes = [*(before or [None])[1:], (after or [None])[-1]]
    if not all(isinstance(d, int) for d in sizes) or before[1] == 0:
        raise _RefusedError(f"{node.op} {node.name} works on an unknown number of positions")
    count = int(np.prod(sizes[1:-1]))
    if sizes[0] * count != sizes[-1]:
        raise _RefusedError(f"{node.op} {node.name} mixes samples")
    return count


def _shifts(graph: Graph, names: list[str], data: Iterable[Feeds], bound: str) -> list[Floats]:
    """What every channel of the tensors can be moved down by, on the data."""
    kinds = (smallest_per_channel, mean_per_channel, mean_square_per_channel)
    probes = [(name, kind) for name in names for kind in kinds]
    least: list[Floats] = []
    total: list[Floats] = []
    batches = 0
    for found in probed(graph, probes, data):
        wide = [np.asarray(f, np.float64) for f in found]
        least = [np.minimum(a, b) for a, b in zip(least or wide, wide, strict=True)]
        total = [a + b for a, b in zip(total, wide, strict=True)] if total else wide
        batches += 1
    shifts = []
    for k in range(0, len(probes), 3):
        mean, square = total[k + 1] / batches, total[k + 2] / batches
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        shift = np.maximum(mean - 3 * deviation if bound == "sigma" else least[k], 0)
        worth = np.maximum(_LEAST * deviation, _ROUNDING * np.abs(mean))
        shifts.append(np.where(shift > worth, shift, 0.0))
    return shifts


def _move(graph: Graph, place: _Place, shift: Floats) -> None:
    """b1 -= c, b2 += w2 c."""
    set_bias(graph, place.layer, bias_of(place.layer) - shift)
    for reader, times in place.readers:
        set_bias(graph, reader, bias_of(reader) + contribution(reader, np.repeat(shift, times)))


def contribution(linear: Node, constant: Floats) -> Floats:
    """What a linear operator makes of an input that is `constant` per channel everywhere."""
    weight = linear.inputs[1].values.astype(np.float64)
    if linear.op == "Conv":
        groups = int(linear.attrs.get("group", 1))
        taps = weight.reshape(groups, out_channels(linear) // groups, weight.shape[1], -1).sum(3)
        return np.einsum("goi,gi->go", taps, constant.reshape(groups, -1)).reshape(-1)
    if linear.op == "Gemm":
        turned = weight if linear.attrs.get("transB", 0) else weight.T
        return float(linear.attrs.get("alpha", 1.0)) * (turned @ constant)
    return np.asarray(weight.T @ constant, np.float64)
