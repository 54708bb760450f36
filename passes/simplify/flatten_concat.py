"""Makes one Concat of nested ones, and leaves out what adds nothing.

    concat(concat(a, b), c) == concat(a, b, c)    concat(a) == a    concat(a, empty) == a

Neighbouring constants become one. Not handled: an inner Concat along another axis, and one that
somebody else reads too (it would be computed anyway).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    add_constant,
    bypass,
    drop_if_dead,
    nodes_of,
    produced_by,
    sole_reader,
)
from graphopt.pass_base import Context, Exact, Pass
from graphopt.passes.simplify.pieces import axis_of

_SMALL = 64  # elements: a constant that others read too is copied up to this size


@dataclass(frozen=True)
class FlattenConcat(Pass):
    """concat(concat(a, b), c) == concat(a, b, c); concat(a) == a."""

    name: ClassVar[str] = "flatten-concat"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "Concat"):
            axis = axis_of(node)
            if axis is None:
                continue
            parts = list(flat(graph, node, axis, context))
            parts = merged_constants(graph, node, axis, without_empty(parts, axis))
            kept = len(parts) == len(node.inputs) and parts[-1] is node.inputs[-1]
            if kept and len(parts) > 1:
                continue
            context.rewrote(node, f"{len(node.inputs)} inputs became {len(parts)}")
            replace_inputs(graph, node, parts)
            if len(parts) == 1:
                bypass(graph, node)


def flat(graph: Graph, node: Node, axis: int, context: Context) -> Iterator[Tensor]:
    """The inputs of a Concat, with those of the ones before it in their place."""
    for tensor in node.inputs:
        inner = produced_by(tensor, "Concat")
        if inner is None or axis_of(inner) != axis:
            yield tensor
        elif sole_reader(graph, tensor) is node:
            yield from inner.inputs
        else:
            context.refused(node, f"the result of Concat {inner.name} is read elsewhere too")
            yield tensor


def without_empty(parts: list[Tensor], axis: int) -> list[Tensor]:
    """The parts that have elements along the axis (one part at least)."""
    full = [t for t in parts if t.shape is None or t.shape[axis] != 0]
    return full or parts[:1]


def merged_constants(graph: Graph, node: Node, axis: int, parts: list[Tensor]) -> list[Tensor]:
    """The parts with every run of constants as one."""
    result: list[Tensor] = []
    for constant, run in itertools.groupby(parts, key=_own):
        group = list(run)
        if constant and len(group) > 1:
            values = np.concatenate([t.values for t in group], axis=axis)
            group = [add_constant(graph, f"{node.outputs[0].name}_constant", values)]
        result += group
    return result


def _own(tensor: Tensor) -> bool:
    """Whether a constant may be copied into another without the model growing."""
    if not isinstance(tensor, Constant):
        return False
    return bool(len(tensor.outputs) == 1 or tensor.values.size <= _SMALL)


def replace_inputs(graph: Graph, node: Node, parts: Iterable[Tensor]) -> None:
    """Gives the node other inputs and drops what only made the old ones."""
    makers = [p for t in node.inputs for p in t.inputs]
    node.inputs = list(parts)
    for maker in makers:
        drop_if_dead(graph, maker)
