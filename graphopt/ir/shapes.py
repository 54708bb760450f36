"""Shapes and types of every tensor, inferred by onnx on a hollow proto."""

from __future__ import annotations

from typing import Any

import onnx

from graphopt.ir.graph import Graph, Variable, input_value, nodes_of
from graphopt.ir.proto import to_proto

_MADE_UP = "unk__"


def infer_shapes(graph: Graph) -> None:
    """Fills in dtype and shape of tensors that lack them; known ones are left alone.

    Sizes that onnx made up names for (`unk__3`) are inferred anew, since a rewrite may have made
    them known. Inference is a courtesy: a graph it cannot handle keeps the shapes it had.
    """
    # Every Resize may hide the sizes of all that follows, the next Resize among it.
    for _ in range(1 + len(list(nodes_of(graph, "Resize")))):
        _forget_made_up_sizes(graph)
        if not (_infer_once(graph) and _keep_unscaled_sizes(graph)):
            break


def _infer_once(graph: Graph) -> bool:
    """One round of onnx's inference; False when nothing was missing."""
    if all(_known(t) for n in graph.nodes for t in n.outputs if isinstance(t, Variable)):
        return False
    model, _ = to_proto(graph, hollow=True)
    inferred = infer_proto(model)
    found = {v.name: v.type.tensor_type for v in _value_infos(inferred) if _is_tensor(v)}
    for node in graph.nodes:
        for tensor in node.outputs:
            if isinstance(tensor, Variable) and tensor.name in found:
                _fill(tensor, found[tensor.name])
    return True


def _keep_unscaled_sizes(graph: Graph) -> bool:
    """A Resize by 1 along an axis keeps its size, a symbolic batch above all; onnx forgets that."""
    changed = False
    for node in nodes_of(graph, "Resize"):
        scales, before, out = input_value(node, 2), node.inputs[0].shape, node.outputs[0]
        if scales is None or before is None or out.shape is None or len(scales) != len(before):
            continue
        sizes = [b if s == 1 else d for s, b, d in zip(scales, before, out.shape, strict=True)]
        if sizes != list(out.shape) and not any(_is_made_up(d) for d in before):
            out.shape, changed = sizes, True
    return changed


def _is_made_up(dim: object) -> bool:
    return dim is None or str(dim).startswith(_MADE_UP)


def _forget_made_up_sizes(graph: Graph) -> None:
    given = {d for t in graph.inputs for d in t.shape or []}
    for node in graph.nodes:
        for tensor in node.outputs:
            named = [d for d in tensor.shape or [] if isinstance(d, str)]
            if any(d.startswith(_MADE_UP) and d not in given for d in named):
                tensor.shape = None


def infer_proto(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with shapes inferred, or `model` itself where onnx's inference fails."""
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=False, data_prop=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return model


def _known(tensor: Any) -> bool:
    if tensor.is_empty():
        return True
    return tensor.dtype is not None and tensor.shape is not None and None not in tensor.shape


def _value_infos(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.value_info, *model.graph.output]


def _is_tensor(info: onnx.ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type")


def _fill(tensor: Any, found: onnx.TypeProto.Tensor) -> None:
    if tensor.dtype is None and found.elem_type:
        tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(found.elem_type)
    if not found.HasField("shape"):
        return
    dims = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in found.shape.dim
    ]
    if tensor.shape is None:
        tensor.shape = dims
    elif len(tensor.shape) == len(dims):
        tensor.shape = [
            d if d is not None else new for d, new in zip(tensor.shape, dims, strict=True)
        ]
