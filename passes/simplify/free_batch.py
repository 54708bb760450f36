"""Lets a model with a fixed batch take any batch.

    reshape(x, [1, 255, -1]) == reshape(x, [0, 255, -1])   when axis 0 of x is the batch

Training and int8 calibration need batches of many; most published files are fixed to one image.
What fixes the batch besides the inputs' shapes is rewritten: targets of Reshape, sizes of Resize,
repeats of constants that are concatenated with the batch. The result is proven: two different
images in one batch give what they give one by one. Not handled: a model whose arithmetic runs over
the batch (refused as a whole).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_value,
    nodes_of,
    set_input,
    sweep,
)
from graphopt.ir.shapes import infer_shapes
from graphopt.oracle import errors_of, open_runner
from graphopt.pass_base import Context, Exact, Pass
from graphopt.samples import draw

BATCH = "batch"
_TOLERANCE = 1e-4  # another batch size takes other kernels, which round differently


@dataclass(frozen=True)
class FreeBatch(Pass):
    """model([a, b]) == [model(a), model(b)]: the fixed batch of a model becomes a symbol."""

    name: ClassVar[str] = "free-batch"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        fixed = fixed_batch(graph)
        if fixed is None:
            return
        trial = graph.copy()
        notes = _free(trial, fixed)
        reason = _why_wrong(trial, fixed, context.seed)
        if reason:
            context.refused("graph", reason)
            return
        _free(graph, fixed)
        infer_shapes(graph)
        context.rewrote("graph", f"batch {fixed} became {BATCH!r}")
        for where, what in notes:
            context.rewrote(where, what)


def fixed_batch(graph: Graph) -> int | None:
    """The number all inputs have as axis 0, or None when it is free or differs."""
    sizes = {t.shape[0] if t.shape else None for t in graph.inputs}
    size = sizes.pop() if len(sizes) == 1 else None
    return int(size) if isinstance(size, int) else None


_Notes = list[tuple[str, str]]


def _free(graph: Graph, fixed: int) -> _Notes:
    """Makes axis 0 of the inputs a symbol and rewrites what fixes it; says what."""
    for tensor in graph.inputs:
        tensor.shape = [BATCH, *tensor.shape[1:]]
    notes = [*_free_reshapes(graph, fixed), *_free_resizes(graph), *_free_concats(graph, fixed)]
    for node in graph.nodes:
        for tensor in node.outputs:
            tensor.shape = None  # what was inferred from the fixed batch
    for tensor in graph.outputs:
        tensor.shape = None
    sweep(graph)
    infer_shapes(graph)
    return notes


def _free_reshapes(graph: Graph, fixed: int) -> _Notes:
    notes = []
    for node in nodes_of(graph, "Reshape"):
        target, shape = input_value(node, 1), node.inputs[0].shape
        if target is None or not shape or not target.size or node.attrs.get("allowzero"):
            continue
        freed = _freed_target(target.tolist(), list(shape), fixed)
        if freed != target.tolist():
            values = np.array(freed, np.int64)
            set_input(node, 1, add_constant(graph, f"{node.name}_shape", values))
            notes.append((node.name, f"shape {target.tolist()} -> {freed}"))
    return notes


def _freed_target(target: list[int], shape: list[Any], fixed: int) -> list[int]:
    """A Reshape's target that takes any batch, as far as the shapes tell where the batch is."""
    if target[0] == fixed and shape[0] == fixed:
        return [0, *target[1:]]  # copied, so that one -1 elsewhere stays allowed
    if -1 in target or 0 in target:
        return target
    if target[0] != shape[0]:
        return [-1, *target[1:]]  # the batch is merged into the first axis, or comes out of it
    if fixed in target:  # the first axis is another one, behind a Transpose
        at = target.index(fixed)
        return [*target[:at], -1, *target[at + 1 :]]
    return target


def _free_resizes(graph: Graph) -> _Notes:
    notes = []
    for node in nodes_of(graph, "Resize"):
        sizes = input_value(node, 3)
        if sizes is None or "axes" in node.attrs or len(sizes) < 3:
            continue
        node.attrs["axes"] = list(range(2, len(sizes)))
        set_input(node, 3, add_constant(graph, f"{node.name}_sizes", sizes[2:]))
        notes.append(
            (node.name, f"sizes {sizes.tolist()} -> {sizes[2:].tolist()} of the last axes")
        )
    return notes


def _free_concats(graph: Graph, fixed: int) -> _Notes:
    """Constants beside the batch (class tokens) are repeated to its length."""
    notes = []
    for node in nodes_of(graph, "Concat"):
        if int(node.attrs["axis"]) == 0:
            continue
        model = next((t for t in node.inputs if not isinstance(t, Constant)), None)
        for i, tensor in enumerate(node.inputs):
            if model is not None and isinstance(tensor, Constant) and tensor.shape[0] == fixed == 1:
                node.inputs[i] = _repeated(graph, node, tensor, model)
                notes.append((node.name, f"constant {tensor.name} repeated over the batch"))
    return notes


def _repeated(graph: Graph, node: Node, constant: Tensor, like: Tensor) -> Tensor:
    sizes: Any = {"like": constant}
    batch = add_node(graph, "Shape", [like], attrs={"start": 0, "end": 1}, shape=[1], **sizes)
    batch.dtype = np.dtype(np.int64)
    rest = add_constant(graph, f"{node.name}_ones", np.ones(constant.values.ndim - 1, np.int64))
    target = add_node(
        graph, "Concat", [batch, rest], like=batch, attrs={"axis": 0}, shape=[constant.values.ndim]
    )
    return add_node(graph, "Expand", [constant, target], shape=None, **sizes)


# --- the proof --------------------------------------------------------------------------------


def _why_wrong(graph: Graph, fixed: int, seed: int) -> str:
    """Why the freed graph does not compute batches one by one, or nothing."""
    rng = np.random.default_rng(seed)
    parts = [draw(graph, {BATCH: fixed}, rng, shrink=1 / 4) for _ in range(2)]
    both = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    try:
        runner = open_runner(graph)
        alone = [runner.run(p) for p in parts]
        together = runner.run(both)
    except GraphoptError as error:
        return f"it does not run with a batch of {2 * fixed}: {error}"
    for name in together:
        stacked = [np.asarray(each[name]) for each in alone]
        if not stacked[0].ndim or stacked[0].shape[0] != fixed:
            return f"output {name!r} has no batch axis"
        expected = {name: np.concatenate(stacked)}
        if errors_of(expected, {name: together[name]})[name] > _TOLERANCE:
            return f"output {name!r} of an image depends on the others in the batch"
    return ""
