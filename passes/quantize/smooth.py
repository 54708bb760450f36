"""Hands the outliers of some channels from activations to weights, before anything is rounded.

    product(norm(x; gamma, beta), w) == product(norm(x; gamma / s, beta / s), w s)
    s_j = max |X_j|^alpha / max |W_j|^(1 - alpha)     per channel j, W all weights that read it

In attention blocks a few channels are a hundred times larger than the others, and one grid for all
wastes its steps on them (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization
for Large Language Models", ICML 2023, eq. 4). Besides normalizations, multiplications by a constant and
linear operators (with what is added to them) can be divided. Between convolutions with a Relu
`equalize` does more. Not handled: what stands behind any other operator, and channels that anything
but products along them reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.labels import Floats
from graphopt.data import load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_value,
    is_op,
    is_output,
    label,
    produced_by,
    producer,
    rank_of,
    set_input,
    sole_reader,
    value_of,
)
from graphopt.ir.names import hold_other_values
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.linear import LINEAR_OPS, scale_outputs, why_not_scalable
from graphopt.passes.quantize.probe import probed

Array = np.ndarray[Any, Any]

_CHANNEL_NORMS = ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
_LAST_NORMS = ("LayerNormalization", "RMSNormalization")
_LEAST = 0.02  # of the logarithm of a scale: less is not worth rounding the weights once more
_ROUNDS = 20
_CAP = 1e4  # a channel that wants a larger scale is as good as dead, and left alone


@dataclass(frozen=True)
class _Place:
    """A tensor whose channels can be divided, and the products that read it."""

    tensor: Tensor
    axis: int
    readers: tuple[Node, ...]


@dataclass(frozen=True)
class Smooth(Pass):
    """product(norm(x; gamma), w) == product(norm(x; gamma / s), w s), s taking outliers off channels."""

    name: ClassVar[str] = "smooth"
    numerics: ClassVar[Close] = Close(rtol=1e-4)
    after: ClassVar[dict[str, str]] = {
        "recompose-norms": "scales go into normalizations, and arithmetic is not recognized as one"
    }
    before: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "grids are chosen for what this pass makes of channels"
    }

    data: Any = None  # images without labels: see graphopt.data
    preprocess: str = ""
    images: int = 128  # at most
    batch: int = 4
    alpha: float = 0.5  # 0 leaves all to activations, 1 all to weights

    def run(self, graph: Graph, context: Context) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha={self.alpha:g} is not between 0 and 1")
        places = list(_places(graph, context))
        if not places:
            return
        if self.data is None:
            raise UsageError("smooth looks at activations: give data=FOLDER (or arrays)")
        data = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.images
        )
        probes = [(p.tensor.name, _peaks_along(p.axis)) for p in places]
        largest = [
            np.max(found, axis=0) for found in zip(*probed(graph, probes, data), strict=True)
        ]
        for place, scale in zip(places, self._balance(graph, places, largest), strict=True):
            by = np.exp(np.abs(np.log(scale)).max())
            if by > 1:
                context.rewrote(producer(place.tensor), f"channels scaled by up to {by:.3g}")
                hold_other_values(graph, _divided(place))

    def _balance(self, graph: Graph, places: list[_Place], largest: list[Floats]) -> list[Floats]:
        """Scales every place, again where one behind it moved what it was balanced against."""
        total = [np.ones(len(peaks)) for peaks in largest]
        for _ in range(_ROUNDS):
            moved = False
            for k, place in enumerate(places):
                scale = self._scale(place, largest[k] / total[k])
                if np.abs(np.log(scale)).max(initial=0) < _LEAST:
                    continue
                _divide(graph, producer(place.tensor), place, 1 / scale)
                _multiply(graph, place, scale)
                total[k] = total[k] * scale
                moved = True
            if not moved:
                break
        return total

    def _scale(self, place: _Place, peaks: Floats) -> Floats:
        weights = np.max([_weight_peaks(n) for n in place.readers], axis=0)
        alive = (peaks > 0) & (weights > 0) & np.isfinite(peaks) & np.isfinite(weights)
        x, w = np.where(alive, peaks, 1.0), np.where(alive, weights, 1.0)
        scale = x**self.alpha / w ** (1 - self.alpha)
        return np.where((scale < _CAP) & (scale > 1 / _CAP), scale, 1.0)


# --- what can be divided --------------------------------------------------------------------------


def _places(graph: Graph, context: Context) -> Iterator[_Place]:
    for node in list(graph.nodes):
        if not node.outputs or not _could_be_divided(node):
            continue
        tensor = node.outputs[0]
        products = [n for n in tensor.outputs if is_op(n, *LINEAR_OPS) and n.inputs[0] is tensor]
        if not products or all(input_value(n, 1) is None for n in products):
            continue
        axis = _axis_read(products[0])
        reason = _why_not_read(graph, tensor, axis) or _why_not_divided(graph, node, axis)
        if reason:
            context.refused(node, reason)
        else:
            yield _Place(tensor, axis, tuple(tensor.outputs))


def _could_be_divided(node: Node) -> bool:
    constant = any(isinstance(t, Constant) for t in node.inputs)
    return is_op(node, *_CHANNEL_NORMS, *_LAST_NORMS, *LINEAR_OPS) or (
        constant and (is_op(node, "Mul") or (is_op(node, "Add") and _linear_of(node) is not None))
    )


def _axis_read(product: Node) -> int:
    if product.op in ("Conv", "ConvTranspose"):
        return 1
    return (rank_of(product.inputs[0]) or 1) - 1


def _why_not_read(graph: Graph, tensor: Tensor, axis: int) -> str | None:
    if is_output(graph, tensor):
        return f"its result {tensor.name!r} is an output of the model"
    if tensor.dtype != np.float32 or not isinstance((tensor.shape or [None])[axis], int):
        return "its result is not float32 with a known number of channels"
    for reader in tensor.outputs:
        if graph.is_inner(reader):
            return "its result is read in a subgraph"
        is_sole = [t is tensor for t in reader.inputs].count(True) == 1
        is_product = is_op(reader, *LINEAR_OPS) and reader.inputs[0] is tensor and is_sole
        if not is_product:
            return f"its result is read by {reader.op} {label(reader)}, too"
        if input_value(reader, 1) is None or (reader.op == "MatMul" and _rank(reader) != 2):
            return f"{reader.op} {label(reader)} has no constant matrix for a weight"
        if _axis_read(reader) != axis or (reader.op == "Gemm" and reader.attrs.get("transA", 0)):
            return f"{reader.op} {label(reader)} sums over another axis"
    return None


def _rank(node: Node) -> int:
    return int(node.inputs[1].values.ndim)


def _why_not_divided(graph: Graph, node: Node, axis: int) -> str | None:
    rank = rank_of(node.outputs[0]) or 0
    channels = node.outputs[0].shape[axis]
    if is_op(node, *_CHANNEL_NORMS, *_LAST_NORMS):
        if is_op(node, *_LAST_NORMS):
            first = int(node.attrs.get("axis", -1)) % rank
            if first != rank - 1 or axis != rank - 1:
                return "it does not normalize along the channels its readers sum over"
        elif axis != 1:
            return "its channels are not what its readers sum over"
        sizes = [v.size for v in map(value_of, node.inputs[1:3]) if v is not None]
        computed = len(sizes) < len([t for t in node.inputs[1:3] if not t.is_empty()])
        wrong = computed or any(size != channels for size in sizes)
        return "it has no constant scale per channel" if wrong else None
    if is_op(node, "Mul"):
        both = all(isinstance(t, Constant) for t in node.inputs)
        return "both its operands are constants" if both else None
    linear: Node = _linear_of(node) if is_op(node, "Add") else node
    if reason := why_not_scalable(linear):
        return reason
    if linear is not node and sole_reader(graph, linear.outputs[0]) is not node:
        return f"the result of {linear.op} {label(linear)} has a second reader"
    out = 1 if linear.op in ("Conv", "ConvTranspose") else rank - 1
    return "its channels are not what its readers sum over" if out != axis else None


def _linear_of(addition: Node) -> Node:
    """The linear operator that a constant is added to, or None."""
    return next((n for t in addition.inputs if (n := produced_by(t, *LINEAR_OPS))), None)


def _divided(place: _Place) -> list[Tensor]:
    """The tensors of a place that are divided."""
    linear = _linear_of(node) if is_op(node := producer(place.tensor), "Add") else None
    return [place.tensor, *(linear.outputs if linear is not None else ())]


# --- scaling --------------------------------------------------------------------------------------


def _divide(graph: Graph, node: Node, place: _Place, factor: Floats) -> None:
    """Multiplies a result by `factor` per channel through constants."""
    rank = rank_of(place.tensor) or 1
    shaped = factor.reshape([-1 if a == place.axis else 1 for a in range(rank)])
    if is_op(node, *_CHANNEL_NORMS, *_LAST_NORMS):
        for index in range(1, min(3, len(node.inputs))):
            if (values := input_value(node, index)) is not None:
                _replace(graph, node, index, values.reshape(-1) * factor)
        return
    if is_op(node, "Add"):
        linear = _linear_of(node)
        scale_outputs(graph, linear, factor, np.zeros_like(factor))
    if is_op(node, "Add", "Mul"):
        index = next(i for i, t in enumerate(node.inputs) if isinstance(t, Constant))
        _replace(graph, node, index, node.inputs[index].values * shaped)
        return
    scale_outputs(graph, node, factor, np.zeros_like(factor))


def _multiply(graph: Graph, place: _Place, scale: Floats) -> None:
    """Multiplies the weights of the readers by `scale` per input channel; shared ones stay shared."""
    made: dict[tuple[int, str, int], Tensor] = {}
    for node in place.readers:
        old = node.inputs[1]
        key = id(old), node.op, int(node.attrs.get("transB", node.attrs.get("group", 1)))
        if key not in made:
            values = (_by_input(node, old.values) * _beside(node, scale)).reshape(old.values.shape)
            made[key] = add_constant(graph, old.name, values.astype(old.values.dtype))
        set_input(node, 1, made[key])


def _by_input(node: Node, weight: Array) -> Array:
    """The weight in the shape (groups, outputs, inputs, taps), or (inputs, rest) where inputs lead."""
    if node.op == "Conv":
        groups = int(node.attrs.get("group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return weight[None, :, :, None]
    return weight.reshape(len(weight), -1)


def _beside(node: Node, scale: Floats) -> Floats:
    """One number per input channel in a shape that broadcasts against `_by_input`."""
    if node.op == "Conv":
        return scale.reshape(int(node.attrs.get("group", 1)), 1, -1, 1)
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return scale[None, None, :, None]
    return scale[:, None]


def _weight_peaks(node: Node) -> Floats:
    """max |W_j| per input channel."""
    table = np.abs(_by_input(node, node.inputs[1].values)).astype(np.float64)
    return table.max(axis=(1, 3)).reshape(-1) if table.ndim == 4 else table.max(axis=1)


def _peaks_along(axis: int) -> Any:
    def probe(graph: Graph, tensor: Tensor) -> Tensor:
        over = [a for a in range(rank_of(tensor) or 0) if a != axis]
        axes = add_constant(graph, f"{tensor.name}_axes", np.array(over, np.int64))
        size = add_node(graph, "Abs", [tensor], like=tensor)
        attrs = {"keepdims": 0}
        return add_node(graph, "ReduceMax", [size, axes], like=tensor, attrs=attrs, shape=[None])

    return probe


def _replace(graph: Graph, node: Node, index: int, values: Array) -> None:
    old = node.inputs[index]
    set_input(node, index, add_constant(graph, old.name, values.astype(old.values.dtype)))
