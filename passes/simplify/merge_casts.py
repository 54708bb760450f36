"""Merges Casts, and removes those that change nothing.

    cast(cast(x, wide), t) == cast(x, t)    cast(x, type of x) == x    castlike(x, y) == cast(x)

`wide` holds every value of the type of x exactly. Not handled: a first Cast that loses values, and
types outside of bool, the integers and float16, float32 and float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    bypass,
    drop_if_dead,
    nodes_of,
    produced_by,
)
from graphopt.pass_base import Context, Exact, Pass

_PLAIN_TYPES = {
    *("bool", "float16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


@dataclass(frozen=True)
class MergeCasts(Pass):
    """cast(cast(x, wide), t) == cast(x, t); cast(x, type of x) == x."""

    name: ClassVar[str] = "merge-casts"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "CastLike"):
            if plain_type(node.outputs[0]) is not None and plain_type(node.inputs[0]) is not None:
                as_cast(node)
                context.rewrote(node, f"is a Cast to {node.outputs[0].dtype}")
        for node in nodes_of(graph, "Cast"):
            first = produced_by(node.inputs[0], "Cast")
            if first is not None:
                reason = why_not_mergeable(first, node)
                if reason:
                    context.refused(node, reason)
                else:
                    node.inputs[0] = first.inputs[0]
                    drop_if_dead(graph, first)
                    context.rewrote(node, f"reads what Cast {first.name} reads")
            if plain_type(node.inputs[0]) is not None and same_type(node):
                context.rewrote(node, f"removed: its input is {node.inputs[0].dtype} already")
                bypass(graph, node)


def plain_type(tensor: Tensor) -> np.dtype[Any] | None:
    """The numpy type of a tensor, if it is one whose casts are well understood."""
    if tensor.dtype is None:
        return None
    dtype = np.dtype(tensor.dtype)
    return dtype if dtype.name in _PLAIN_TYPES else None


def same_type(node: Node) -> bool:
    """Whether a Cast changes nothing."""
    return plain_type(node.inputs[0]) == plain_type(node.outputs[0])


def as_cast(node: Node) -> None:
    """Turns a CastLike into the Cast it is."""
    target = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node.outputs[0].dtype))
    node.op, node.attrs = "Cast", {"to": int(target)}
    del node.inputs[1]


def why_not_mergeable(first: Node, second: Node) -> str | None:
    """The reason the second Cast has to read the first one's result, or None."""
    kinds = [plain_type(t) for t in (first.inputs[0], first.outputs[0], second.outputs[0])]
    source, middle, target = kinds
    if source is None or middle is None or target is None:
        return "one of the two casts is of a type whose rounding is not plain"
    if not holds(middle, source):
        return f"the cast from {source} to {middle} before it loses values"
    # What does not fit wraps around from an integer, and is undefined from a float.
    detour = middle.kind == "f" and source.kind in "iu" and target.kind in "iu"
    if detour and not holds(target, source):
        return f"{source} values that do not fit {target} come out otherwise by way of {middle}"
    return None


def holds(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Whether every value of `narrow` is exactly one of `wide`."""
    if wide.kind == "f" and narrow.kind in "iu":
        return np.finfo(wide).nmant >= 8 * narrow.itemsize  # can_cast allows int64 to float64
    return bool(np.can_cast(narrow, wide, "safe"))
