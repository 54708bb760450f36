"""Which output channel of which convolution every element of a tensor comes from.

Operators that only move elements (Reshape, Transpose, Split, Slice, Concat and the like) are run on
numbers that stand for channels. What they do to a tensor is then known exactly, whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, is_op, is_output, producer
from graphopt.passes.fuse.linear import out_channels
from graphopt.passes.simplify.pieces import axis_of, sizes_of
from graphopt.passes.simplify.slices import slice_ranges

Array: TypeAlias = "np.ndarray[Any, Any]"

CONVOLUTIONS = ("Conv", "ConvTranspose")
_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_MOVERS = (*_RESHAPING, "Transpose", "Split", "Slice", "Concat")

# Larger tensors are left unknown; the heads of a detector at 1280 pixels have a third of this.
_LARGEST = 1 << 26
ELSEWHERE = -1


class Origins:
    """Channel numbers of tensors; a number is unique over all convolutions met.

    A dimension that is not known (a free batch) counts as 1: where it is moved or merged with
    another, the sizes do not fit and the tensor stays unknown.
    """

    def __init__(self) -> None:
        self.convolutions: list[Node] = []
        self._first: dict[int, int] = {}  # id of a convolution -> number of its first channel
        self._known: dict[int, tuple[Tensor, Array | None]] = {}
        self._count = 0

    def of(self, tensor: Tensor) -> Array | None:
        """The number of every element's channel, ELSEWHERE for other elements; None when unknown."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, self._traced(tensor))
        return self._known[id(tensor)][1]

    def channels(self, conv: Node) -> slice:
        """The numbers of a convolution's channels."""
        first = self._first[id(conv)]
        return slice(first, first + out_channels(conv))

    @property
    def count(self) -> int:
        """How many channels were numbered."""
        return self._count

    def _traced(self, tensor: Tensor) -> Array | None:
        shape = _shape(tensor)
        if shape is None or math.prod(shape) > _LARGEST:
            return None
        maker = producer(tensor)
        if is_op(maker, *_MOVERS):
            moved = self._moved(maker, tensor)
            return moved if moved is None or moved.shape == shape else None
        if is_op(maker, *CONVOLUTIONS) and _has_constant_weight(maker):
            return self._numbered(maker, shape)
        return np.full(shape, ELSEWHERE, np.int32)

    def _numbered(self, conv: Node, shape: tuple[int, ...]) -> Array | None:
        if any(not isinstance(d, int | np.integer) for d in conv.outputs[0].shape[1:]):
            return None
        self._first[id(conv)] = self._count
        self.convolutions.append(conv)
        numbers = np.arange(self._count, self._count + shape[1], dtype=np.int32)
        self._count += shape[1]
        return np.broadcast_to(numbers.reshape(-1, *[1] * (len(shape) - 2)), shape)

    def _moved(self, node: Node, out: Tensor) -> Array | None:
        if node.op == "Concat":
            parts, axis = [self.of(t) for t in node.inputs], axis_of(node)
            known = [p for p in parts if p is not None]
            return (
                np.concatenate(known, axis)
                if len(known) == len(parts) and axis is not None
                else None
            )
        source, shape = self.of(node.inputs[0]), _shape(out)
        if source is None or shape is None:
            return None
        if node.op in _RESHAPING:
            return source.reshape(shape) if source.size == math.prod(shape) else None
        if node.op == "Transpose":
            return source.transpose(node.attrs.get("perm", range(source.ndim)[::-1]))
        return _split(node, out, source) if node.op == "Split" else _sliced(node, source)


def leaves(graph: Graph, tensor: Tensor) -> Iterator[tuple[Tensor, Node | None]]:
    """(moved tensor, who reads it as it is) for all that becomes of `tensor`; None: it is an output."""
    stack = [tensor]
    while stack:
        each = stack.pop()
        if is_output(graph, each):
            yield each, None
        for reader in each.outputs:
            if is_op(reader, *_MOVERS) and not graph.is_inner(reader) and each is not _told(reader):
                stack.extend(reader.outputs)
            else:
                yield each, reader


def _told(node: Node) -> Tensor | None:
    # Reshape and Slice may read a computed tensor as their target: that is a reading of its values.
    return None if node.op == "Concat" or len(node.inputs) < 2 else node.inputs[1]


def _split(node: Node, out: Tensor, source: Array) -> Array | None:
    axis, sizes = axis_of(node), sizes_of(node)
    if axis is None or sizes is None:
        return None
    index = next(i for i, t in enumerate(node.outputs) if t is out)
    start = sum(sizes[:index])
    return np.take(source, range(start, start + sizes[index]), axis)


def _sliced(node: Node, source: Array) -> Array | None:
    ranges = slice_ranges(node)
    if ranges is None:
        return None
    cuts = [slice(None)] * source.ndim
    for axis, (start, end, step) in ranges:
        cuts[axis] = slice(start, end, step)
    return source[tuple(cuts)]


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    if tensor.shape is None:
        return None
    return tuple(int(d) if isinstance(d, int | np.integer) else 1 for d in tensor.shape)


def _has_constant_weight(conv: Node) -> bool:
    return getattr(conv.inputs[1], "values", None) is not None
