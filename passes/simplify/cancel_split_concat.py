"""Removes cutting that is undone, and joining that is undone.

    concat(split(x)) == x        concat(x[0:2], x[2:5]) == x[0:5]
    split(concat(a, b)) == a, b  x[:2], x[2:5], x[5:] == split(x)
    split(x) of which one piece is read == a slice of x

All along one axis, with sizes known when the graph is made. Not handled: slices with steps, and
pieces in another order.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    bypass,
    drop_if_dead,
    is_op,
    is_output,
    nodes_of,
    produced_by,
    producer,
    replace_uses,
    sole_reader,
)
from graphopt.pass_base import Context, Exact, Pass
from graphopt.passes.simplify.flatten_concat import replace_inputs
from graphopt.passes.simplify.pieces import Piece, axis_of, joined, piece_of, runs, sizes_of


@dataclass(frozen=True)
class CancelSplitConcat(Pass):
    """concat(split(x)) == x; split(concat(a, b)) == a, b; slices that cover x == split(x)."""

    name: ClassVar[str] = "cancel-split-concat"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "Split"):
            uncut(graph, node, context)
        for node in nodes_of(graph, "Concat"):
            rejoin(graph, node, context)
        slices_to_splits(graph, context)
        for node in nodes_of(graph, "Split"):
            one_piece(graph, node, context)


def uncut(graph: Graph, split: Node, context: Context) -> None:
    """split(concat(a, b)) == a, b where the cuts are at the seams."""
    joint, sizes = produced_by(split.inputs[0], "Concat"), sizes_of(split)
    if joint is None or axis_of(joint) != axis_of(split) or sizes is None:
        return
    axis = axis_of(joint)
    lengths = [None if t.shape is None else t.shape[axis] for t in joint.inputs]
    if lengths != sizes:
        context.refused(split, f"it does not cut where Concat {joint.name} has its seams")
        return
    context.rewrote(split, f"undoes Concat {joint.name}")
    for out, part in zip(list(split.outputs), list(joint.inputs), strict=True):
        replace_uses(graph, out, part)


def rejoin(graph: Graph, node: Node, context: Context) -> None:
    """concat(x[0:2], x[2:5]) == x[0:5], also for a run of neighbours among other inputs."""
    axis, parts = axis_of(node), list[Tensor]()
    for run in runs([(t, piece_of(t)) for t in node.inputs], axis):
        whole = joined(run)
        if whole is None:
            parts += [t for t, _ in run]
        elif whole.is_all:
            parts.append(whole.source)
        elif all(is_op(producer(t), "Slice") and sole_reader(graph, t) for t, _ in run):
            parts.append(add_slice(graph, whole, node.outputs[0]))
        else:
            parts += [t for t, _ in run]
    if len(parts) < len(node.inputs):
        context.rewrote(node, f"{len(node.inputs)} inputs became {len(parts)}: cuts undone")
        replace_inputs(graph, node, parts)
        if len(parts) == 1:
            bypass(graph, node)


def add_slice(graph: Graph, piece: Piece, like: Tensor) -> Tensor:
    """Adds the Slice that takes `piece`."""
    numbers = (piece.start, piece.stop, piece.axis)
    names = (f"{like.name}_{n}" for n in ("starts", "ends", "axes"))
    bounds = [
        add_constant(graph, n, np.array([v], np.int64)) for n, v in zip(names, numbers, strict=True)
    ]
    shape = list(piece.source.shape)
    shape[piece.axis] = piece.stop - piece.start
    return add_node(graph, "Slice", [piece.source, *bounds], like=like, shape=shape)


def slices_to_splits(graph: Graph, context: Context) -> None:
    """x[:2], x[2:5], x[5:] == split(x): one operator instead of several."""
    groups: dict[tuple[int, int], list[Piece]] = defaultdict(list)
    for node in nodes_of(graph, "Slice"):
        piece = piece_of(node.outputs[0])
        if piece is not None and not is_output(graph, piece.tensor):
            groups[id(piece.source), piece.axis].append(piece)
    for pieces in groups.values():
        pieces.sort(key=lambda p: p.start)
        seams = all(a.stop == b.start for a, b in itertools.pairwise(pieces))
        whole = pieces[0].start == 0 and pieces[-1].stop == pieces[0].source.shape[pieces[0].axis]
        if len(pieces) > 1 and seams and whole:
            context.rewrote(producer(pieces[0].tensor), f"{len(pieces)} Slices are one Split")
            split_up(graph, pieces)


def split_up(graph: Graph, pieces: list[Piece]) -> None:
    """Makes the pieces, which cover their source in order, the results of one Split."""
    first, makers = pieces[0], [producer(p.tensor) for p in pieces]
    name = graph.fresh_name(f"{first.tensor.name}_split")
    sizes = add_constant(graph, f"{name}_sizes", np.array([p.stop - p.start for p in pieces]))
    outputs = [p.tensor for p in pieces]
    for maker in makers:
        maker.outputs.clear()
        maker.inputs.clear()
    graph.nodes.append(gs.Node("Split", name, {"axis": first.axis}, [first.source, sizes], outputs))


def one_piece(graph: Graph, split: Node, context: Context) -> None:
    """A Split of which one piece is read is a Slice."""
    read = [t for t in split.outputs if t.outputs or is_output(graph, t)]
    piece = piece_of(read[0]) if len(read) == 1 and len(split.outputs) > 1 else None
    if piece is None or is_output(graph, read[0]):
        return
    context.rewrote(split, "a Slice: one of its pieces is read")
    replace_uses(graph, read[0], add_slice(graph, piece, read[0]))
    drop_if_dead(graph, split)
