"""Merges chains of additions and multiplications with constants into at most one of each.

    (x * a) * b == x * (a b)    (x + a) - b == x + (a - b)    (x * a + b) * c == x * (a c) + b c
    x * 1 == x + 0 == x

A chain is rewritten only where that makes it shorter. Not handled: constants that enlarge the
result or each other, constants that cancel (the rounding they cause would change), float16, and for
integers anything but additions. x + 0 makes 0 of -0, x does not: they compare as equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    nodes_of,
    producer,
    replace_uses,
    sole_reader,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.constant_arithmetic import (
    ARITHMETIC,
    Step,
    composed,
    operations,
    step_of,
)

Array = np.ndarray[Any, Any]

# Products outside of these bounds may overflow on the way where the merged one does not.
_SMALLEST, _LARGEST = 1e-18, 1e18
# A sum this much smaller than its parts has lost their last bits.
_CANCELLED = 1e-2


@dataclass(frozen=True)
class MergeScalarArithmetic(Pass):
    """(x * a) * b == x * (a * b); (x + a) + b == x + (a + b); x * 1 == x + 0 == x."""

    name: ClassVar[str] = "merge-scalar-arithmetic"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *ARITHMETIC):
            if continues(graph, node):
                continue  # the end of the chain comes later
            chain = list(chain_to(graph, node))
            merged = composed(chain) if chain else None
            if merged is None or len(operations(*merged)) >= len(chain):
                continue
            if reason := why_not_mergeable(chain, *merged):
                context.refused(node, reason)
                continue
            out = written(graph, chain, *merged)
            ops = operations(*merged)
            what = f"are {' and '.join(ops)}" if ops else "change nothing and are gone"
            context.rewrote(node, f"{len(chain)} operations {what}")
            replace_uses(graph, node.outputs[0], out)


def continues(graph: Graph, node: Node) -> bool:
    """Whether the one reader of `node` is a step as well."""
    reader = sole_reader(graph, node.outputs[0])
    return reader is not None and step_of(reader) is not None


def chain_to(graph: Graph, node: Node) -> Iterator[Step]:
    """The steps that end in `node`, last first."""
    step = step_of(node)
    while step is not None:
        yield step
        if sole_reader(graph, step.source) is None:
            return
        step = step_of(producer(step.source))


def why_not_mergeable(chain: list[Step], scale: Array, shift: Array) -> str | None:
    """The reason a chain has to stay as it is, or None."""
    dtype = chain[0].node.outputs[0].dtype
    if len(chain) == 1:
        return None  # a step that does nothing
    if np.dtype(dtype).kind in "iu":
        only_adds = all(np.all(s.scale == 1) for s in chain)
        return None if only_adds else "integer products may overflow on the way"
    if str(dtype) not in ("float32", "float64"):
        return f"in {dtype} the steps round differently from the merged operation"
    largest = max(max(s.scale.size, s.shift.size) for s in chain)
    if max(scale.size, shift.size) > largest:
        return "the merged constant would be larger than the ones it replaces"
    partial, parts = np.asarray(1.0), np.asarray(0.0)
    for step in reversed(chain):
        partial = partial * step.scale
        parts = parts * np.abs(step.scale) + np.abs(step.shift)
        magnitude = np.abs(partial)
        if np.any((magnitude > 0) & (magnitude < _SMALLEST)) or np.any(magnitude > _LARGEST):
            return "its constants are so large or small that the steps may overflow"
    if np.any(np.abs(shift) < _CANCELLED * parts):
        return "its constants cancel each other, and the rounding they cause would change"
    return None


def written(graph: Graph, chain: list[Step], scale: Array, shift: Array) -> Tensor:
    """Adds the operations of the merged chain and returns its result."""
    tensor, like = chain[-1].source, chain[0].node.outputs[0]
    for op in operations(scale, shift):
        values = (scale if op == "Mul" else shift).astype(np.dtype(like.dtype))
        constant = add_constant(graph, f"{like.name}_{op.lower()}_value", values)
        tensor = add_node(graph, op, [tensor, constant], like=like)
    return tensor
