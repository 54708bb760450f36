"""Which constants of a graph are trained, and as what all of them stand in a torch module.

Trained by default is
- what stands in a slot for weights (of convolutions, matrix products, normalizations, PRelu and
  recurrent cells), also through Transpose, Reshape, quantization and other movements;
- what is added to a product along its last axis or its channels: a bias written as Add;
- other arrays that are added, multiplied or concatenated *between* two layers with weights (layer
  scale, position embeddings, class tokens), unless all their values are whole numbers, as those of
  masks and grids are.

So neither the normalization of the input is trained nor the anchors, grids and strides of a decoder
at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphopt.ir.graph import Constant, Graph, Node, Tensor, is_op, producer
from graphopt.named import matching

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Einsum": (0, 1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
}
_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
_MOVEMENTS = (
    *("Cast", "CastLike", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze", "Concat", *_QUANTIZATION),
)
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_JOINS = ("Add", "Sub", "Mul", "Div", "Concat")


def parameters_of(
    graph: Graph, *, also: Sequence[str] = (), frozen: Sequence[str] = ()
) -> dict[str, bool]:
    """The names of the constants that are parameters (see the module's text): whether each is trained.

    Args:
        graph: in normal form.
        also: names or globs of constants to train besides.
        frozen: names or globs of constants to leave as they are.

    Raises:
        UsageError: a glob that matches no constant of floating-point numbers.
    """
    names = {t.name for t in graph.tensors().values() if isinstance(t, Constant) and is_float(t)}
    chosen = {c.name for node in graph.nodes for c in _in_weight_slots(node)}
    chosen |= {c.name for c in _between_layers(graph)}
    kind = "constant of floating-point numbers"
    fixed, more = (matching(kind, given, sorted(names)) for given in (frozen, also))
    return {name: name not in fixed for name in sorted(chosen.union(more))}


def is_float(constant: Tensor) -> bool:
    """Whether a constant holds floating-point numbers of 16 bits or more."""
    kind = np.dtype(constant.dtype)
    return kind.kind == "f" or kind.name == "bfloat16"


def _in_weight_slots(node: Node) -> Iterator[Tensor]:
    slots = _WEIGHTS.get(node.op, ()) if is_op(node, node.op) else ()
    for index in slots:
        if index < len(node.inputs):
            yield from _moved_constants(node.inputs[index])
    if is_op(node, "Add", "Sub"):
        yield from _bias(node)


def _moved_constants(tensor: Tensor, *, smallest: int = 1) -> Iterator[Tensor]:
    """The constants a tensor is moved together from; none if anything else has a part in it."""
    if isinstance(tensor, Constant):
        if is_float(tensor) and tensor.values.size >= smallest:
            yield tensor
        return
    maker = producer(tensor)
    if is_op(maker, *_MOVEMENTS):
        parts = maker.inputs if maker.op == "Concat" else maker.inputs[:1]
        for part in parts:
            # One number written out over all channels is how exporters write "no bias".
            least = smallest if is_op(maker, *_QUANTIZATION) else 2
            yield from _moved_constants(part, smallest=least)


def _bias(node: Node) -> Iterator[Tensor]:
    for i, tensor in enumerate(node.inputs):
        other = node.inputs[1 - i]
        if not isinstance(tensor, Constant) or not is_op(producer(other), *_PRODUCTS):
            continue
        if is_float(tensor) and tensor.values.size == max(tensor.values.shape, default=0) > 1:
            yield tensor


def _between_layers(graph: Graph) -> Iterator[Tensor]:
    layers = [n for n in graph.nodes if next(_in_weight_slots(n), None) is not None]
    behind = _reached(layers, lambda n: (r for t in n.outputs for r in t.outputs))
    before = _reached(layers, lambda n: (p for t in n.inputs for p in t.inputs))
    for node in graph.nodes:
        if not is_op(node, *_JOINS) or id(node) not in behind or id(node) not in before:
            continue
        for tensor in node.inputs:
            yield from (c for c in _moved_constants(tensor) if _could_be_learnt(c))


def _reached(start: list[Node], following: Any) -> set[int]:
    """The ids of the nodes that can be reached from `start`, without those of it that cannot."""
    found: set[int] = set()
    stack = list(start)
    while stack:
        for node in following(stack.pop()):
            if id(node) not in found:
                found.add(id(node))
                stack.append(node)
    return found


def _could_be_learnt(constant: Tensor) -> bool:
    values = constant.values
    return bool(values.size > 1 and np.any(values != np.round(values)))


# --- arrays -----------------------------------------------------------------------------------

_TYPES: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "uint4": torch.uint8,  # no arithmetic of torch's knows types of 4 bits
    "int4": torch.int8,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "uint16": torch.uint16,
    "int16": torch.int16,
    "uint32": torch.uint32,
    "int32": torch.int32,
    "uint64": torch.uint64,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}


def torch_type(kind: Any) -> torch.dtype | None:
    """The torch type of a numpy type; None when torch has none (strings, 8-bit floats) or none is known."""
    return None if kind is None else _TYPES.get(np.dtype(kind).name)


def limits_of(kind: Any) -> tuple[int, int] | None:
    """The smallest and largest number of an integer type; None of any other."""
    if kind is None or np.dtype(kind).name.lstrip("u")[:3] != "int":
        return None
    found = ml_dtypes.iinfo(np.dtype(kind))
    return int(found.min), int(found.max)


def to_tensor(values: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor of its own with the values of an array: arrays are shared between graphs."""
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.uint16).copy()).view(torch.bfloat16)
    if values.dtype.name in ("int4", "uint4"):
        values = values.astype(np.int8 if values.dtype.name == "int4" else np.uint8)
    return torch.from_numpy(np.array(values, copy=True, order="C"))


def to_array(tensor: torch.Tensor, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The values of a tensor in the type a constant has."""
    held = tensor.detach().cpu()
    if held.dtype == torch.bfloat16:
        held = held.float()
    return np.array(held.numpy(), dtype=kind, copy=True, order="C")
