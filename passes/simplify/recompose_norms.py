"""Finds layer and RMS normalization written as arithmetic.

    (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gamma + beta
                                         == LayerNormalization(x, gamma, beta)
    x / sqrt(mean(x^2) + eps) * gamma    == RMSNormalization(x, gamma)     (opset 23)

The mean runs over the last axes; gamma and beta may be missing. Not handled: other axes, computed
gamma and beta (they stay as they are, after a normalization without), types other than float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    add_constant,
    add_node,
    is_op,
    nodes_of,
    rank_of,
    replace_uses,
    sole_reader,
    value_of,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.norms import Norm, norm_around
from graphopt.passes.simplify.region import why_not_closed

Array = np.ndarray[Any, Any]
_RMS_OPSET = 23


@dataclass(frozen=True)
class RecomposeNorms(Pass):
    """(x - mean) / sqrt(var + eps) * gamma + beta == LayerNormalization(x, gamma, beta)."""

    name: ClassVar[str] = "recompose-norms"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for sqrt in nodes_of(graph, "Sqrt"):
            norm = norm_around(sqrt)
            if norm is None:
                continue
            if reason := why_not_replaceable(graph, norm):
                context.refused(sqrt, f"not written as {norm.op}: {reason}")
                continue
            take_affine(graph, norm)
            gamma = np.ones(norm.dims, np.float32) if norm.gamma is None else norm.gamma
            inputs = [norm.x, add_constant(graph, f"{norm.root.name}_scale", gamma)]
            if norm.beta is not None:
                inputs.append(add_constant(graph, f"{norm.root.name}_shift", norm.beta))
            attrs = {"axis": -len(norm.axes), "epsilon": norm.epsilon}
            made = add_node(graph, norm.op, inputs, like=norm.root, attrs=attrs)
            replace_uses(graph, norm.root, made)
            context.rewrote(sqrt, f"{len(norm.nodes)} nodes are one {norm.op}")


def why_not_replaceable(graph: Graph, norm: Norm) -> str | None:
    """The reason the arithmetic has to stay, or None; fills in the normalized dimensions."""
    rank = rank_of(norm.x)
    if rank is None or norm.axes != list(range(rank - len(norm.axes), rank)):
        return f"it normalizes over the axes {norm.axes}, which are not the last ones"
    norm.dims = list(norm.x.shape)[rank - len(norm.axes) :]
    if not all(isinstance(d, int) for d in norm.dims):
        return "the size of what is normalized is not a fixed number"
    if str(norm.x.dtype) != "float32":
        return f"the operator computes in float32, and this is {norm.x.dtype}"
    if norm.op == "RMSNormalization" and graph.opset < _RMS_OPSET:
        return f"the operator is in opset {_RMS_OPSET}, and the model has opset {graph.opset}"
    return why_not_closed(graph, norm.nodes, norm.root)


def take_affine(graph: Graph, norm: Norm) -> None:
    """Moves a constant gamma, then a constant beta, that follow the normalization into it."""
    norm.gamma = _following(graph, norm, "Mul")
    if norm.op == "LayerNormalization":
        norm.beta = _following(graph, norm, "Add")


def _following(graph: Graph, norm: Norm, op: str) -> Array | None:
    node = sole_reader(graph, norm.root)
    if node is None or not is_op(node, op):
        return None
    values = value_of(node.inputs[1] if node.inputs[0] is norm.root else node.inputs[0])
    if values is None:
        return None
    extra = max(values.ndim - len(norm.dims), 0)
    fits = values.ndim <= len(norm.x.shape) and all(d == 1 for d in values.shape[:extra])
    inner = values.reshape(values.shape[extra:]) if fits else values
    pairs = zip(reversed(inner.shape), reversed(norm.dims), strict=False)
    if not fits or any(v not in (1, d) for v, d in pairs):
        return None
    norm.root = node.outputs[0]
    norm.nodes.append(node)
    # ONNX Runtime wants gamma and beta in full.
    return np.broadcast_to(inner, norm.dims)
