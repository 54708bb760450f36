"""Integer tensors followed element by element, as far as the known dimensions of tensors reach.

Shape arithmetic (Shape, Gather, Mul, Concat, ...) is evaluated on arrays whose elements are numbers,
names of symbolic dimensions, or None for what only run time knows. Two dimensions of one name are
one number: that is what a name means in ONNX.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, is_op, value_of

Dim: TypeAlias = "int | str | None"
Dims: TypeAlias = "tuple[Dim, ...]"
Elements: TypeAlias = "np.ndarray[Any, Any]"  # of dtype object, each element a Dim or a bool

_LARGEST = 64  # elements: shapes, pads and bounds are smaller, data is larger


class Values:
    """What is known of the integer tensors of a graph; one sweep over its nodes."""

    def __init__(self, graph: Graph | None = None) -> None:
        # The tensor is kept beside its elements: the id of one that is gone may be given out again.
        self._known: dict[int, tuple[Tensor, Elements]] = {}
        for node in [] if graph is None else graph.nodes:
            self.follow(node)

    def follow(self, node: Node) -> None:
        """Evaluates a node; the nodes it reads from come before it."""
        rule = _RULES.get(node.op) if is_op(node, node.op) else None
        if rule is None or len(node.outputs) != 1:
            return
        found = self._evaluated(rule, node)
        if found is not None and found.size <= _LARGEST:
            self._known[id(node.outputs[0])] = (node.outputs[0], found)

    def of(self, tensor: Tensor | None) -> Elements | None:
        """The elements of an integer tensor, or None when nothing is known of it."""
        values = value_of(tensor)
        if values is None:
            return self._known.get(id(tensor), (None, None))[1]
        if values.dtype.kind not in "iub" or values.size > _LARGEST:
            return None
        return np.asarray(values.astype(object))

    def _evaluated(self, rule: Rule, node: Node) -> Elements | None:
        if node.op in ("Shape", "Size"):
            return rule(node, [])
        if node.outputs[0].dtype is None or np.dtype(node.outputs[0].dtype).kind not in "iub":
            return None
        inputs = [None if t.is_empty() else self.of(t) for t in node.inputs]
        if any(v is None and not t.is_empty() for v, t in zip(inputs, node.inputs, strict=True)):
            return None
        try:
            return rule(node, inputs)
        except (ValueError, IndexError, TypeError):
            return None  # an element that has to be a number is not known


Rule: TypeAlias = "Callable[[Node, list[Any]], Elements | None]"


def _objects(elements: Sequence[Any], shape: Sequence[int] | None = None) -> Elements:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array if shape is None else array.reshape(shape)


def _shape(node: Node, _: list[Any]) -> Elements | None:
    dims = node.inputs[0].shape
    if dims is None:
        return None
    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(dims))
    return _objects(list(dims)[start:end])


def _size(node: Node, _: list[Any]) -> Elements | None:
    dims = node.inputs[0].shape
    if dims is None or not all(isinstance(d, int) for d in dims):
        return None
    return _objects([math.prod(dims)], ())


def _ints(array: Elements) -> list[int]:
    """The elements as numbers; raises TypeError when one is not known."""
    if not all(isinstance(e, int | np.integer) for e in array.reshape(-1)):
        raise TypeError("an element is not known")
    return [int(e) for e in array.reshape(-1)]


def _gather(node: Node, inputs: list[Any]) -> Elements:
    indices = np.reshape(_ints(inputs[1]), inputs[1].shape).astype(np.int64)
    return np.asarray(np.take(inputs[0], indices, axis=node.attrs.get("axis", 0)), dtype=object)


def _slice(_: Node, inputs: list[Any]) -> Elements:
    starts, ends = _ints(inputs[1]), _ints(inputs[2])
    given = [*inputs[3:], None, None]
    axes = range(len(starts)) if given[0] is None else _ints(given[0])
    steps = [1] * len(starts) if given[1] is None else _ints(given[1])
    window = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # An end so far below that it means "past the first element" is None in Python.
        window[axis] = slice(start, None if step < 0 and end < -(2**31) + 2 else end, step)
    return np.asarray(inputs[0][tuple(window)], dtype=object)


def _reshape(_: Node, inputs: list[Any]) -> Elements | None:
    target = _ints(inputs[1])
    return None if 0 in target else inputs[0].reshape(target)


def _squeeze(_: Node, inputs: list[Any]) -> Elements:
    axes = None if len(inputs) < 2 or inputs[1] is None else tuple(_ints(inputs[1]))
    return np.asarray(np.squeeze(inputs[0], axis=axes), dtype=object)


def _range(_: Node, inputs: list[Any]) -> Elements:
    (start,), (limit,), (delta,) = (_ints(i) for i in inputs)
    return _objects(list(range(start, limit, delta))[: _LARGEST + 1])


def _constant_of_shape(node: Node, inputs: list[Any]) -> Elements | None:
    filled = node.attrs.get("value")
    shape = _ints(inputs[0])
    if filled is None or math.prod(shape) > _LARGEST:
        return None  # the default is a float
    return np.full(shape, filled.values.reshape(-1)[0].item(), dtype=object)


def _elementwise(function: Callable[..., Any]) -> Rule:
    def rule(_: Node, inputs: list[Any]) -> Elements:
        pieces = np.broadcast_arrays(*inputs)
        rows = zip(*(p.reshape(-1) for p in pieces), strict=True)
        return _objects([function(*row) for row in rows], pieces[0].shape)

    return rule


def _numbers(function: Callable[[int, int], Dim]) -> Callable[[Any, Any], Dim]:
    def on_known(a: Any, b: Any) -> Dim:
        known = isinstance(a, int | np.integer) and isinstance(b, int | np.integer)
        return function(int(a), int(b)) if known else None

    return on_known


def _plus(a: Any, b: Any) -> Any:
    if a == 0 or b == 0:
        return b if a == 0 else a  # a symbolic dimension keeps its name
    return _numbers(lambda x, y: x + y)(a, b)


def _minus(a: Any, b: Any) -> Any:
    return a if b == 0 else _numbers(lambda x, y: x - y)(a, b)


def _times(a: Any, b: Any) -> Any:
    if a == 1 or b == 1:
        return b if a == 1 else a  # a symbolic dimension times one keeps its name
    return _numbers(lambda x, y: x * y)(a, b)


def _divided(a: Any, b: Any) -> Any:
    if b == 1:
        return a
    # ONNX rounds towards zero; floor division is the same where nothing is negative.
    return _numbers(lambda x, y: x // y if x >= 0 and y > 0 else None)(a, b)


def _equal(a: Any, b: Any) -> Any:
    # A dimension is never negative, so a symbolic one is known not to be -1.
    if isinstance(a, str) and isinstance(b, int):
        return False if b < 0 else None
    if isinstance(b, str) and isinstance(a, int):
        return False if a < 0 else None
    return None if a is None or b is None or isinstance(a, str) else bool(a == b)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if condition is None:
        return a if a == b else None
    return a if condition else b


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": lambda _, i: np.expand_dims(i[0], tuple(_ints(i[1]))),
    "Concat": lambda node, i: np.concatenate(i, axis=node.attrs["axis"]),
    "Transpose": lambda node, i: np.transpose(i[0], node.attrs.get("perm")),
    "Expand": lambda _, i: np.broadcast_to(i[0], np.broadcast_shapes(i[0].shape, _ints(i[1]))),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda _, i: i[0],
    "Cast": lambda node, i: i[0] if np.dtype(node.outputs[0].dtype).kind in "iu" else None,
    "Add": _elementwise(_plus),
    "Sub": _elementwise(_minus),
    "Mul": _elementwise(_times),
    "Div": _elementwise(_divided),
    "Min": _elementwise(_numbers(min)),
    "Max": _elementwise(_numbers(max)),
    "Equal": _elementwise(_equal),
    "Where": _elementwise(_where),
}


# --- dimensions -------------------------------------------------------------------------------


def dims_of(tensor: Tensor | None) -> Dims | None:
    """The shape of a tensor, or None when not even its rank is known."""
    return None if tensor is None or tensor.shape is None else tuple(tensor.shape)


def quotient(whole: Sequence[Dim], part: Sequence[Dim]) -> Dim:
    """The product of `whole` divided by that of `part`, when it is one number or one name."""
    above = Counter(d for d in whole if isinstance(d, str))
    below = Counter(d for d in part if isinstance(d, str))
    if None in whole or None in part or below - above:
        return None
    left = list((above - below).elements())
    over, under = (math.prod(d for d in p if isinstance(d, int)) for p in (whole, part))
    if under == 0 or over % under:
        return None
    number = over // under
    if not left:
        return number
    return left[0] if len(left) == 1 and number == 1 else None


def same_dims(a: Dims, b: Dims) -> bool:
    """Whether two shapes of one tensor's elements are certainly equal.

    One dimension may be unknown on both sides: the count of elements settles it.
    """
    if len(a) != len(b):
        return False
    differ = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y or x is None]
    if len(differ) != 1:
        return not differ
    (odd,) = differ
    rest = [*a[:odd], *a[odd + 1 :]]
    counted = all(isinstance(d, int) and d > 0 for d in rest)
    return counted and not (isinstance(a[odd], int) and isinstance(b[odd], int))


def dropped_ones(longer: Dims, shorter: Dims) -> list[int] | None:
    """The axes of size 1 whose removal turns one shape into the other, or None."""
    dropped: list[int] = []
    rest = list(shorter)
    for axis, dim in enumerate(longer):
        if rest and dim is not None and dim == rest[0]:
            rest.pop(0)
        elif dim == 1:
            dropped.append(axis)
        else:
            return None
    return dropped if dropped and not rest else None
