"""Stores and computes in float32 what a file has in float16 or bfloat16.

    y = float16(f(float16(x), w))   becomes   f(x, float32(w))

Every number the file holds is a float32 too; what its operators make of them is no longer rounded to 11
(or 8) bits, so that outputs come closer to those of the network the file was made from. Inputs and
outputs are float32 afterwards. For files that were exported in half: what prunes, trains, quantizes and
compiles works in float32, and rounds again by itself where that is asked for. Not handled: subgraphs,
and operators of other domains, whose types are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx

from graphopt.ir.graph import Constant, Graph, Node, Tensor, is_op, subgraphs
from graphopt.pass_base import Changes, Context, Pass

_NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_TYPES = (int(onnx.TensorProto.FLOAT16), int(onnx.TensorProto.BFLOAT16))
# Attributes of Cast, of random numbers, of roundings.
_NAMES_A_TYPE = ("to", "dtype", "output_dtype")


@dataclass(frozen=True)
class ToFloat32(Pass):
    """float16(f(float16(x), w)) becomes f(x, float32(w)), inputs and outputs too."""

    name: ClassVar[str] = "to-float32"
    numerics: ClassVar[Changes] = Changes("computes in float32")

    def run(self, graph: Graph, context: Context) -> None:
        narrow = [t for t in graph.tensors().values() if is_narrow(t)]
        if not narrow:
            return
        for node in graph.nodes:
            reason = _why_not(node)
            if reason:
                context.refused(node, reason)
                return
        weights = sum(isinstance(t, Constant) for t in narrow)
        for tensor in narrow:
            if isinstance(tensor, Constant):
                tensor.values = tensor.values.astype(np.float32)
            else:
                tensor.dtype = np.dtype(np.float32)
        for node in graph.nodes:
            _widen_attributes(node)
        context.rewrote(
            "graph", f"{len(narrow)} tensors are float32 now, {weights} of them constants"
        )


def is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor is of float16 or bfloat16."""
    return tensor.dtype is not None and np.dtype(tensor.dtype) in _NARROW


def _why_not(node: Node) -> str | None:
    if subgraphs(node):
        return "it has a graph of its own, whose types are left alone; nothing was changed"
    if not is_op(node, node.op):
        return f"{node.op} is of the domain {node.domain!r}; nothing was changed"
    return None


def _widen_attributes(node: Node) -> None:
    for name in _NAMES_A_TYPE:
        if node.attrs.get(name) in _TYPES:
            node.attrs[name] = int(onnx.TensorProto.FLOAT)
    value = node.attrs.get("value")
    if isinstance(value, Constant) and is_narrow(value):
        node.attrs["value"] = Constant(value.name, value.values.astype(np.float32))
