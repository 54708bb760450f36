"""Moves Transposes through the operators behind them, where that makes them meet and vanish.

    transpose(relu(transpose(x, p)), q) == relu(x)           where q undoes p
    add(transpose(x, p), transpose(y, p)) == transpose(add(x, y), p)
    gemm(transpose(a), b) == gemm(a, b, transA=1)            transpose(constant) == constant

A region of operators that work in any order of axes (layout.py has the list) is computed in the order
before the Transposes, if fewer Transposes are left then (transpose_region.py). What only moves axes of
size 1 is a Reshape. Not handled: operators whose layout is fixed, operands of another rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.dims import dims_of
from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    bypass,
    drop_if_dead,
    nodes_of,
    produced_by,
    rank_of,
    replace_uses,
    set_input,
    sole_reader,
    sweep,
    value_of,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.layout import (
    Perm,
    composed,
    is_identity,
    perm_of,
)
from graphopt.passes.simplify.merge_reshapes import target_of
from graphopt.passes.simplify.reorder import reorder
from graphopt.passes.simplify.transpose_region import Regions

_ROUNDS = 20  # every one leaves fewer Transposes; two or three are usual


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """transpose(relu(transpose(x, p)), inverse of p) == relu(x); also across whole regions."""

    name: ClassVar[str] = "sink-transposes"
    # Elementwise operators are exact; sums and products run in another order of axes are close.
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        merge_all(graph, context)
        for _ in range(_ROUNDS):
            regions = Regions(graph)
            chosen = list(regions.worthwhile())
            if not chosen:
                break
            for region in chosen:
                first, count = region[0].node, len(region)
                context.rewrote(first, f"{count} operators work in the order before the Transpose")
            reorder(graph, [m for region in chosen for m in region])
            sweep(graph)
            merge_all(graph, context)
        for node in regions.missed():
            context.refused(
                node, "what is between it and its inverse would need as many Transposes again"
            )
        for node in nodes_of(graph, "Transpose"):
            as_reshape(graph, node, context)


def merge_all(graph: Graph, context: Context) -> None:
    """Removes the Transposes that their direct neighbours can absorb."""
    for node in nodes_of(graph, "Transpose"):
        perm, values = perm_of(node), value_of(node.inputs[0])
        before = produced_by(node.inputs[0], "Transpose")
        first = perm_of(before) if before is not None else None
        if perm is None:
            continue
        if is_identity(perm):
            context.rewrote(node, "removed: it moves nothing")
            bypass(graph, node)
        elif values is not None:
            turned = add_constant(graph, node.inputs[0].name, np.transpose(values, perm))
            context.rewrote(node, "a constant in the other order")
            replace_uses(graph, node.outputs[0], turned)
        elif first is not None and mergeable(graph, before, first, perm):
            context.rewrote(node, f"merged with Transpose {before.name}")
            compose(graph, node, before.inputs[0], composed(first, perm))
            drop_if_dead(graph, before)
    for node in nodes_of(graph, "Gemm", "MatMul"):
        absorb(graph, node, context)


def mergeable(graph: Graph, before: Node, first: Perm, second: Perm) -> bool:
    """Whether merging two Transposes leaves fewer of them."""
    alone = sole_reader(graph, before.outputs[0]) is not None
    return alone or is_identity(composed(first, second))


def compose(graph: Graph, node: Node, source: Tensor, perm: Perm) -> None:
    """Makes a Transpose read `source` under `perm`, or goes past it when that moves nothing."""
    node.inputs[0], node.attrs = source, {"perm": list(perm)}
    if is_identity(perm):
        replace_uses(graph, node.outputs[0], source)


def absorb(graph: Graph, node: Node, context: Context) -> None:
    """Lets a product of matrices read its operands transposed."""
    for i, key in enumerate(("transA", "transB")):
        before = produced_by(node.inputs[i], "Transpose")
        matrices = rank_of(node.inputs[0]) == rank_of(node.inputs[1]) == 2
        if before is None or not matrices or sole_reader(graph, before.outputs[0]) is not node:
            continue
        context.rewrote(before, f"absorbed by {node.op} {node.name}")
        node.op = "Gemm"  # of matrices, MatMul is Gemm without a bias
        node.attrs = {**node.attrs, key: 1 - int(node.attrs.get(key, 0))}
        node.inputs[i] = before.inputs[0]
        drop_if_dead(graph, before)


def as_reshape(graph: Graph, node: Node, context: Context) -> None:
    """Turns a Transpose that only moves axes of size 1 into a Reshape, which moves no data."""
    source, shape, perm = dims_of(node.inputs[0]), dims_of(node.outputs[0]), perm_of(node)
    if source is None or shape is None or perm is None:
        return
    long = [p for p in perm if source[p] != 1]
    target = target_of(source, shape)
    if long == sorted(long) and not isinstance(target, str):
        node.op, node.attrs = "Reshape", {}
        name = f"{node.outputs[0].name}_target"
        set_input(node, 1, add_constant(graph, name, np.array(target, np.int64)))
        context.rewrote(node, "a Reshape: it only moves axes of size 1")
