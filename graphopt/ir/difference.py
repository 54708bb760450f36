"""Whether two graphs are the same: their structure, and which arrays their constants hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, TypeAlias

from graphopt.ir.graph import Graph

Node: TypeAlias = Any  # gs.Node
Tensor: TypeAlias = Any  # gs.Tensor

_MISSING = object()


def differs(one: Graph, other: Graph) -> bool:
    """Whether operators, names, attributes or connections differ, or a constant has another array.

    What is in the arrays is not looked at: copies of a graph share them, and nobody writes into one.
    """
    return (
        one.opset != other.opset
        or len(one.nodes) != len(other.nodes)
        or _given(one) != _given(other)
        or any(map(_node_differs, one.nodes, other.nodes))
    )


def _given(graph: Graph) -> list[tuple[str, str]]:
    return [(t.name, str(t.shape)) for t in [*graph.inputs, *graph.outputs]]


def _node_differs(one: Node, other: Node) -> bool:
    return (
        one.op != other.op
        or one.name != other.name
        or one.domain != other.domain
        or not _same_attributes(one.attrs, other.attrs)
        or not _same_tensors(one.inputs, other.inputs)
        or not _same_tensors(one.outputs, other.outputs)
    )


def _same_attributes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if len(one) != len(other):
        return False
    for name, value in one.items():
        twin = other.get(name, _MISSING)
        if value is not twin and not _equal(value, twin):
            return False
    return True


def _equal(one: Any, other: Any) -> bool:
    if type(one) is type(other) is list and one == other:
        return all(map(is_, map(type, one), map(type, other)))  # 1 is not 1.0
    return repr(one) == repr(other)  # subgraphs and arrays; NaN is itself


def _same_tensors(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    if len(one) != len(other):
        return False
    for left, right in zip(one, other, strict=True):
        mine, theirs = left.__dict__, right.__dict__
        if mine["name"] != theirs["name"] or mine.get("_values") is not theirs.get("_values"):
            return False  # what is no constant has no values
    return True
