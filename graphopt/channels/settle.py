"""Sizes that onnx's inference left open and that follow from what is known.

    reshape(x, [shape(y)[0], 4, 16])    is float[batch,4,16] where y is float[batch,...]

onnx invents a name (`unk__3`) or leaves out the size as soon as one element of a computed target is
symbolic, and everything that follows has another invented name. Labels can pass only where sizes
are known to be equal, so names that stand for a known size are replaced. Only annotations change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.dims import Values, quotient
from graphopt.ir.graph import Graph, Node, input_of, is_op

MADE_UP = "unk__"
_BROADCASTING = """
Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum
Where Xor
"""

Dims = list[Any]  # numbers, names, None for what is not known


def settle_sizes(graph: Graph) -> None:
    """Replaces invented sizes by those they are equal to, in one sweep."""
    given = {d for t in graph.inputs for d in t.shape or []}
    same: dict[Any, Any] = {}
    values = Values()
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.shape is not None and same:
                tensor.shape = [same.get(d, d) for d in tensor.shape]
        _settle(node, values, given, same)
        values.follow(node)


def _settle(node: Node, values: Values, given: set[Any], same: dict[Any, Any]) -> None:
    """Replaces the invented sizes of a node's result, and notes in `same` what they are."""
    out = node.outputs[0].shape if node.outputs else None
    if out is None or not any(_is_made_up(d, given) for d in out):
        return
    found = _dims(node, values)
    if found is None or len(found) != len(out):
        return
    for axis, (old, new) in enumerate(zip(out, found, strict=True)):
        if new is None or old == new or not _is_made_up(old, given):
            continue
        if old is not None:
            same[old] = new
        out[axis] = new


def _is_made_up(dim: Any, given: set[Any]) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(MADE_UP) and dim not in given)


def _dims(node: Node, values: Values) -> Dims | None:
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
        given = values.of(input_of(node, 3 if node.op == "Resize" else 1))
        return None if given is None else _sized(node, list(shapes[0]), given.reshape(-1).tolist())
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
    dims[dims.index(-1)] = quotient(source, [d for d in dims if d != -1])
    return dims
