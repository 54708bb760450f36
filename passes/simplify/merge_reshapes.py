"""Merges what only changes the shape, and makes target shapes constant.

    reshape(flatten(unsqueeze(x))) == reshape(x)     reshape(x, to its own shape) == x
    reshape(x, [shape(x)[0], 3, 85, 8, 8]) == reshape(x, [0, 3, 85, 8, 8])

The target is the shape of the result: symbolic dimensions are written 0 where the input has them at
the same place, and one more is -1, left to the count of elements. Not handled: results with two
dimensions only run time knows, and dimensions of size 0. Where the model failed on an empty batch
(its own -1 was ambiguous), the rewritten one may run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.dims import (
    Dim,
    Dims,
    Values,
    dims_of,
    dropped_ones,
    quotient,
    same_dims,
)
from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    drop_if_dead,
    input_of,
    input_value,
    is_op,
    is_output,
    nodes_of,
    produced_by,
    producer,
    replace_uses,
)
from graphopt.pass_base import Context, Exact, Pass

RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MergeReshapes(Pass):
    """reshape(flatten(unsqueeze(x))) == reshape(x); a target shape that is known is constant."""

    name: ClassVar[str] = "merge-reshapes"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        values = Values(graph)
        for node in nodes_of(graph, *RESHAPING):
            shape = result_shape(node, values)
            if shape is None:
                continue
            if (same := same_before(node, shape)) is not None:
                context.rewrote(node, f"removed: its result is {same.name!r} as it is")
                replace_uses(graph, node.outputs[0], same)
                continue
            first = produced_by(node.inputs[0], *RESHAPING)
            reason = why_needed(graph, first) if first is not None else None
            if first is not None and reason is None:
                reason = respell(graph, node, first.inputs[0], shape)
                if reason is None:
                    context.rewrote(node, f"merged with {first.op} {first.name}")
                    continue
            if node.op == "Reshape" and input_value(node, 1) is None:
                reason = respell(graph, node, node.inputs[0], shape)
                if reason is None:
                    context.rewrote(node, "its target shape is constant")
            if reason:
                context.refused(node, reason)


def result_shape(node: Node, values: Values) -> Dims | None:
    """The shape of the node's result, from shape inference, its target and the count of elements."""
    source, shape = dims_of(node.inputs[0]), dims_of(node.outputs[0])
    target = values.of(input_of(node, 1)) if node.op == "Reshape" else None
    if target is not None:
        shape = _known_by_either(shape or (None,) * target.size, target.tolist())
    if source is None or shape is None or shape.count(None) != 1:
        return shape if source is not None else None
    rest = tuple(d for d in shape if d is not None)
    return tuple(quotient(source, rest) if d is None else d for d in shape)


def _known_by_either(shape: Dims, target: list[Any]) -> Dims:
    if len(shape) != len(target):
        return shape
    return tuple(_known(d, t) for d, t in zip(shape, target, strict=True))


def _known(dim: Dim, target: Any) -> Dim:
    """One dimension, inferred as `dim` and asked for as `target`."""
    if isinstance(dim, int):
        return dim
    if isinstance(target, str) or (isinstance(target, int) and target > 0):
        return target
    return None if target == -1 else dim  # left to the count of elements


def same_before(node: Node, shape: Dims) -> Tensor | None:
    """The tensor up the chain of reshaping nodes that already has the shape of the result."""
    each = node
    while is_op(each, *RESHAPING):
        source = dims_of(each.inputs[0])
        if source is not None and same_dims(source, shape):
            return each.inputs[0]
        each = producer(each.inputs[0])
    return None


def why_needed(graph: Graph, first: Node) -> str | None:
    """The reason the first of two reshaping nodes has to stay, or None."""
    middle = first.outputs[0]
    if is_output(graph, middle) or not all(is_op(n, *RESHAPING) for n in middle.outputs):
        return f"the result of {first.op} {first.name} is needed in its own shape elsewhere"
    return None


def respell(graph: Graph, node: Node, source: Tensor, shape: Dims) -> str | None:
    """Makes `node` the one operator from `source` to `shape`, or returns the reason there is none."""
    before = dims_of(source)
    if before is None:
        return f"the shape of {source.name!r} is not known"
    for op, axes in (
        ("Squeeze", dropped_ones(before, shape)),
        ("Unsqueeze", dropped_ones(shape, before)),
    ):
        if axes is not None:
            _become(graph, node, op, source, axes)
            return None
    target = target_of(before, shape)
    if isinstance(target, str):
        return target
    _become(graph, node, "Reshape", source, target)
    if not is_output(graph, node.outputs[0]):
        node.outputs[0].shape = list(shape)
    return None


def target_of(source: Dims, shape: Dims) -> list[int] | str:
    """The constant target that gives `shape`, or the reason there is none."""
    if 0 in shape:
        return "its result has no elements"
    copied = [isinstance(d, str) and d in source[i : i + 1] for i, d in enumerate(shape)]
    free = [d for d, c in zip(shape, copied, strict=True) if not c and not isinstance(d, int)]
    if len(free) > 1:
        return f"{len(free)} dimensions of its result are only known at run time"
    pairs = zip(shape, copied, strict=True)
    return [0 if c else d if isinstance(d, int) else -1 for d, c in pairs]


def _become(graph: Graph, node: Node, op: str, source: Tensor, numbers: list[int]) -> None:
    makers = [p for t in node.inputs for p in t.inputs]
    constant = add_constant(graph, f"{node.outputs[0].name}_target", np.array(numbers, np.int64))
    node.op, node.attrs, node.inputs = op, {}, [source, constant]
    for maker in makers:
        drop_if_dead(graph, maker)
