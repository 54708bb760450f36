"""Replaces a chain that only moves data, and ends by taking a part, with the one Slice it amounts to.

    gather(reshape(transpose(reshape(x))), k) == x[:, k::groups]      a channel shuffle, then a half

ShuffleNet blocks are written so: Reshape, Transpose, Reshape and two Gathers per block, where two
strided Slices do. Which Slice it is is not matched by pattern but computed: the chain is run on the
numbers 0, 1, 2, ... in place of the data, and the result compared with every strided slice of them,
for two batch sizes where the batch is symbolic. Not handled: other symbolic sizes, results that are
no slice along one axis, tensors above `max_elements`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_value,
    is_op,
    nodes_of,
    producer,
    replace_uses,
)
from graphopt.pass_base import Context, Exact, Pass

Array = np.ndarray[Any, Any]

_TAKES = ("Gather", "Slice", "Split")
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", *_TAKES)
_SHORTEST, _LONGEST = 3, 8


@dataclass(frozen=True)
class MergeMovement(Pass):
    """gather(reshape(transpose(reshape(x))), k) == x[:, k::groups]: a channel shuffle and a half."""

    max_elements: int = 1 << 21

    name: ClassVar[str] = "merge-movement"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *_TAKES):
            for out in list(node.outputs):
                chain = chain_to(out)
                if len(chain) < _SHORTEST:
                    continue
                source = chain[0].inputs[0]
                found = self._slice(chain, out, source)
                if isinstance(found, str):
                    context.refused(node, found)
                elif found is not None:
                    _replace(graph, out, source, found)
                    ops = ", ".join(n.op for n in chain)
                    context.rewrote(out.name, f"{ops} of {source.name} is one Slice")

    def _slice(
        self, chain: list[Node], out: Tensor, source: Tensor
    ) -> tuple[int, int, int] | str | None:
        shapes = _test_shapes(source)
        if shapes is None or any(int(np.prod(s)) > self.max_elements for s in shapes):
            return None
        slices = {
            _slice_of(run_chain(chain, out, np.arange(np.prod(s)).reshape(s)), s) for s in shapes
        }
        if len(slices) == 1 and None not in slices:
            return slices.pop()
        return "what the chain moves is no slice along one axis"


def chain_to(out: Tensor) -> list[Node]:
    """The data movement that leads to `out`, first node first; it starts where data is computed."""
    chain: list[Node] = []
    tensor = out
    while len(chain) < _LONGEST:
        node = producer(tensor)
        if not is_op(node, *_MOVES) or any(input_value(node, i) is None for i in _parameters(node)):
            break
        chain.insert(0, node)
        tensor = node.inputs[0]
    return chain


def _parameters(node: Node) -> range:
    return range(1, len([t for t in node.inputs if not t.is_empty()]))


def _test_shapes(source: Tensor) -> list[tuple[int, ...]] | None:
    """Sizes to try: the tensor's own, or two batches where only the batch is symbolic."""
    dims = source.shape
    if not dims or not all(isinstance(d, int) for d in dims[1:]):
        return None
    batches = [dims[0]] if isinstance(dims[0], int) else [2, 3]
    return [(b, *dims[1:]) for b in batches]


def run_chain(chain: list[Node], out: Tensor, data: Array) -> Array | None:
    """What the chain makes of `data`, or None where it does not fit its shape."""
    read = [*(n.inputs[0] for n in chain[1:]), out]
    for node, result in zip(chain, read, strict=True):
        index = next(i for i, t in enumerate(node.outputs) if t is result)
        try:
            data = _RUN[node.op](node, data, index)
        except (ValueError, IndexError):
            return None
    return data


def _slice_of(moved: Array | None, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(axis, start, step) when `moved` is that slice of the numbers 0, 1, 2, ... in `shape`."""
    if moved is None or moved.ndim != len(shape) or not moved.size:
        return None
    shorter = [i for i, (a, b) in enumerate(zip(moved.shape, shape, strict=True)) if a != b]
    if len(shorter) != 1:
        return None
    (axis,) = shorter
    whole = np.arange(np.prod(shape)).reshape(shape)
    start = int(moved.flat[0]) // int(np.prod(shape[axis + 1 :])) % shape[axis]
    step = -(-(shape[axis] - start) // moved.shape[axis])
    index = [slice(None)] * len(shape)
    index[axis] = slice(start, None, step)
    return (axis, start, step) if np.array_equal(whole[tuple(index)], moved) else None


def _replace(graph: Graph, out: Tensor, source: Tensor, found: tuple[int, int, int]) -> None:
    axis, start, step = found
    constants = [
        add_constant(graph, f"{out.name}_{name}", np.array([value], np.int64))
        for name, value in (("start", start), ("end", 2**31 - 1), ("axis", axis), ("step", step))
    ]
    new = add_node(graph, "Slice", [source, *constants], like=out)
    replace_uses(graph, out, new)


# --- the operators, on numbers in place of data -------------------------------------------------


def _reshape(node: Node, data: Array, _: int) -> Array:
    sizes = [int(d) for d in _constant(node, 1)]
    if not node.attrs.get("allowzero", 0):
        sizes = [data.shape[i] if d == 0 else d for i, d in enumerate(sizes)]
    return data.reshape(sizes)


def _flatten(node: Node, data: Array, _: int) -> Array:
    axis = int(node.attrs.get("axis", 1))
    axis += data.ndim if axis < 0 else 0
    return data.reshape(int(np.prod(data.shape[:axis])), -1)


def _squeeze(node: Node, data: Array, _: int) -> Array:
    axes = input_value(node, 1)
    return np.squeeze(data) if axes is None else np.squeeze(data, tuple(int(a) for a in axes))


def _unsqueeze(node: Node, data: Array, _: int) -> Array:
    return np.expand_dims(data, tuple(int(a) for a in _constant(node, 1)))


def _transpose(node: Node, data: Array, _: int) -> Array:
    return np.transpose(data, node.attrs.get("perm"))


def _gather(node: Node, data: Array, _: int) -> Array:
    return np.take(data, _constant(node, 1), axis=int(node.attrs.get("axis", 0)))


def _slice(node: Node, data: Array, _: int) -> Array:
    starts, ends = _constant(node, 1), _constant(node, 2)
    axes, steps = input_value(node, 3), input_value(node, 4)
    index = [slice(None)] * data.ndim
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = k if axes is None else int(axes[k])
        step = 1 if steps is None else int(steps[k])
        if step < 0:
            raise ValueError("a backward slice has ends numpy reads differently")
        index[axis] = slice(int(start), int(end), step)
    return data[tuple(index)]


def _split(node: Node, data: Array, index: int) -> Array:
    axis, sizes = int(node.attrs.get("axis", 0)), input_value(node, 1)
    if sizes is None:
        return np.split(data, len(node.outputs), axis=axis)[index]
    return np.split(data, np.cumsum(sizes)[:-1], axis=axis)[index]


def _constant(node: Node, index: int) -> Array:
    values = input_value(node, index)
    assert values is not None
    return values


_RUN = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
}
