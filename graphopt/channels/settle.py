"""Sizes that onnx's inference left open and that follow from what is known.

    reshape(x, [shape(y)[0], 4, 16])    is float[batch,4,16] where y is float[batch,...]

onnx invents a name (`unk__3`) or leaves out the size as soon as one element of a computed target is
symbolic, and everything that follows has another invented name. Labels can pass only where sizes
are known to be equal, so names that stand for a known size are replaced. Only annotations change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, input_of, is_op, producer, value_of

MADE_UP = "unk__"
_BROADCASTING = """
Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum
Where Xor
"""
_LONGEST = 64  # elements: shapes are shorter, data is longer

Dims = list[Any]  # numbers, names, None for what is not known


def settle_sizes(graph: Graph) -> None:
    """Replaces invented sizes by those they are equal to, in one sweep."""
    given = {d for t in graph.inputs for d in t.shape or []}
    same: dict[Any, Any] = {}
    elements = _Elements()
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.shape is not None:
                tensor.shape = [same.get(d, d) for d in tensor.shape]
        found, out = _dims(node, elements), node.outputs[0].shape if node.outputs else None
        if found is None or out is None or len(found) != len(out):
            continue
        for axis, (old, new) in enumerate(zip(out, found, strict=True)):
            if new is None or old == new or not _is_made_up(old, given):
                continue
            if old is not None:
                same[old] = new
            out[axis] = new


def _is_made_up(dim: Any, given: set[Any]) -> bool:
    return dim is None or (str(dim).startswith(MADE_UP) and dim not in given)


def _dims(node: Node, elements: _Elements) -> Dims | None:
    """The shape of a node's result as far as its inputs tell, or None for other operators."""
    shapes = [t.shape for t in node.inputs if not t.is_empty()]
    if not shapes or shapes[0] is None:
        return None
    if is_op(node, *_BROADCASTING.split()):
        return None if None in shapes else _broadcast(shapes)
    if is_op(node, "Concat") and None not in shapes:
        return _joined(shapes, int(node.attrs.get("axis", 0)) % len(shapes[0]))
    if is_op(node, "MatMul") and None not in shapes and min(map(len, shapes)) > 1:
        a, b = shapes
        return [*_broadcast([a[:-2], b[:-2]]), a[-2], b[-1]]
    if is_op(node, "Reshape", "Expand", "Resize"):
        given = elements.of(input_of(node, 3 if node.op == "Resize" else 1))
        return None if given is None else _sized(node, list(shapes[0]), given)
    return None


def _sized(node: Node, source: Dims, given: Dims) -> Dims | None:
    if node.op == "Reshape":
        return None if node.attrs.get("allowzero", 0) else _reshaped(source, given)
    if node.op == "Expand":
        return _broadcast([source, given])
    plain = node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    return given if plain and "axes" not in node.attrs else None


def _broadcast(shapes: Sequence[Dims]) -> Dims:
    rank = max(map(len, shapes))
    padded = [[1] * (rank - len(s)) + list(s) for s in shapes]
    return [_common([s[axis] for s in padded]) for axis in range(rank)]


def _common(dims: Dims) -> Any:
    wide = {d for d in dims if d != 1}
    numbers = [d for d in wide if isinstance(d, int)]
    if numbers:
        return numbers[0]  # whatever else stands there is the same, or one
    return 1 if not wide else wide.pop() if len(wide) == 1 else None


def _joined(shapes: Sequence[Dims], axis: int) -> Dims:
    dims = [next((d for d in column if isinstance(d, int)), column[0]) for column in zip(*shapes)]  # noqa: B905
    sizes = [s[axis] for s in shapes]
    dims[axis] = sum(sizes) if all(isinstance(s, int) for s in sizes) else None
    return dims


def _reshaped(source: Dims, target: Dims) -> Dims | None:
    dims = [source[a] if d == 0 and a < len(source) else d for a, d in enumerate(target)]
    if dims.count(-1) != 1:
        return dims if -1 not in dims else None
    dims[dims.index(-1)] = _quotient(source, [d for d in dims if d != -1])
    return dims


def _quotient(whole: Dims, part: Dims) -> Any:
    """The product of `whole` by that of `part` when it is one number or one name, else None."""
    names = [Counter(d for d in dims if isinstance(d, str)) for dims in (whole, part)]
    over, under = (math.prod(d for d in dims if isinstance(d, int)) for dims in (whole, part))
    if None in whole or None in part or names[1] - names[0] or not under or over % under:
        return None
    left = list((names[0] - names[1]).elements())
    if not left:
        return over // under
    return left[0] if len(left) == 1 and over == under else None


class _Elements:
    """Integer vectors element by element, worked out from the end: shapes have few makers."""

    def __init__(self) -> None:
        self._known: dict[int, Dims | None] = {}

    def of(self, tensor: Tensor | None) -> Dims | None:
        """The elements of a vector (or the one of a scalar), or None when nothing is known."""
        if tensor is None:
            return None
        if id(tensor) not in self._known:
            self._known[id(tensor)] = None
            self._known[id(tensor)] = self._worked_out(tensor)
        return self._known[id(tensor)]

    def _worked_out(self, tensor: Tensor) -> Dims | None:
        values = value_of(tensor)
        if values is not None:
            small = values.dtype.kind in "ib" and values.ndim < 2 and values.size <= _LONGEST
            return [v.item() for v in values.reshape(-1)] if small else None
        node = producer(tensor)
        if node is None or tensor.shape is None or len(tensor.shape) > 1:
            return None
        if is_op(node, "Shape"):
            dims = node.inputs[0].shape
            window = slice(node.attrs.get("start", 0), node.attrs.get("end"))
            return None if dims is None else list(dims)[window]
        inputs = [self.of(input_of(node, i)) for i in range(len(node.inputs))]
        return None if not inputs or inputs[0] is None else self._moved(node, inputs)

    def _moved(self, node: Node, inputs: list[Any]) -> Dims | None:
        if is_op(node, "Concat"):
            return None if None in inputs else [d for piece in inputs for d in piece]
        if is_op(node, "Unsqueeze", "Squeeze", "Cast", "Reshape"):
            return inputs[0] if np.dtype(node.outputs[0].dtype).kind == "i" else None
        if is_op(node, "Gather") and _are_numbers(inputs[1]):
            return [inputs[0][i] for i in inputs[1]]
        if is_op(node, "Slice") and all(_are_numbers(i) for i in (inputs[1], inputs[2])):
            step = inputs[4][0] if len(inputs) > 4 and inputs[4] else 1
            return inputs[0][inputs[1][0] : inputs[2][0] : step]
        if is_op(node, "Add", "Sub", "Mul") and None not in inputs:
            return _computed(node.op, *inputs)
        if is_op(node, "Where") and _are_numbers(inputs[0]) and None not in inputs:
            rows = np.broadcast_arrays(*(np.array(i, dtype=object) for i in inputs))
            return [a if keep else b for keep, a, b in zip(*rows, strict=True)]
        return None


def _are_numbers(elements: Dims | None) -> bool:
    return elements is not None and all(isinstance(e, int) for e in elements)


def _computed(op: str, left: Dims, right: Dims) -> Dims | None:
    if not (len(left) == len(right) or 1 in (len(left), len(right))):
        return None
    count = max(len(left), len(right))
    pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
    return [_one(op, a, b) for a, b in pairs]


def _one(op: str, a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return {"Add": a + b, "Sub": a - b, "Mul": a * b}[op]
    neutral = 1 if op == "Mul" else 0
    return a if b == neutral else b if a == neutral and op != "Sub" else None
