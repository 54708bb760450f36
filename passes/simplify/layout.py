"""How an operator changes when the data it reads is in another order of axes: one row per operator.

A tensor y is *held* under a permutation p when the graph has only y' and y == transpose(y', p); axis k
of y is then axis p[k] of y'. `moved` says what a node has to become so that it computes from held
inputs its result, held under a permutation again:

    softmax(transpose(y', p), axis=k) == transpose(softmax(y', axis=p[k]), p)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir.graph import Node, Tensor, input_of, input_value, is_op, rank_of, value_of

Perm: TypeAlias = "tuple[int, ...]"
Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Move:
    """What a node becomes: which inputs are to be held, what replaces the others, its result's order."""

    data: tuple[int, ...]
    out: Perm
    attrs: dict[str, Any] = field(default_factory=dict)
    constants: dict[int, Array] = field(default_factory=dict)


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(i) for i in np.argsort(perm))


def composed(first: Perm, second: Perm) -> Perm:
    """transpose(transpose(x, first), second) == transpose(x, composed)."""
    return tuple(first[k] for k in second)


def is_identity(perm: Perm) -> bool:
    """Whether the permutation moves nothing."""
    return perm == tuple(range(len(perm)))


def perm_of(transpose: Node) -> Perm | None:
    """The permutation of a Transpose; reversed axes when it is left out, None when the rank is unknown."""
    perm = transpose.attrs.get("perm")
    if perm is not None:
        return tuple(int(p) for p in perm)
    rank = rank_of(transpose.inputs[0])
    return None if rank is None else tuple(reversed(range(rank)))


def moved(node: Node, perm: Perm) -> Move | None:
    """What `node` becomes when its data is held under `perm`, or None when it cannot."""
    rule = _RULES.get(node.op)
    return None if rule is None or not is_op(node, node.op) else rule(node, perm)


def _unary(_: Node, perm: Perm) -> Move:
    return Move((0,), perm)


def _elementwise(node: Node, perm: Perm) -> Move | None:
    if rank_of(node.outputs[0]) != len(perm):
        return None
    data: list[int] = []
    constants: dict[int, Array] = {}
    for i, tensor in enumerate(node.inputs):
        values, rank = value_of(tensor), rank_of(tensor)
        if rank == 0 or (values is not None and values.size == 1):
            continue
        if values is not None:
            constants[i] = aligned(values, perm)
        elif rank == len(perm):
            data.append(i)
        else:
            return None  # a computed operand of another rank would need a Reshape
    return Move(tuple(data), perm, constants=constants)


def aligned(values: Array, perm: Perm) -> Array:
    """The constant y' of a constant y that is broadcast to the rank of `perm`."""
    full = values.reshape((1,) * (len(perm) - values.ndim) + values.shape)
    return np.ascontiguousarray(np.transpose(full, inverse(perm)))


def _along_axis(default: int | None, data: Sequence[int] | None = (0,)) -> Rule:
    def rule(node: Node, perm: Perm) -> Move | None:
        axis = node.attrs.get("axis", default)
        if axis is None:
            return None
        indices = range(len(node.inputs)) if data is None else data
        held = tuple(i for i in indices if value_of(node.inputs[i]) is None)
        constants = {i: aligned(node.inputs[i].values, perm) for i in indices if i not in held}
        return Move(held, perm, {"axis": perm[axis]}, constants)

    return rule


def _quantize(node: Node, perm: Perm) -> Move | None:
    scale = input_value(node, 1)
    if scale is None or scale.ndim > 1 or value_of(node.inputs[0]) is not None:
        return None
    if scale.size == 1:
        return Move((0,), perm)
    return Move((0,), perm, {"axis": perm[node.attrs.get("axis", 1)]})


def _slice(node: Node, perm: Perm) -> Move | None:
    starts = input_value(node, 1)
    axes = input_value(node, 3)
    if starts is None or (axes is None and input_of(node, 3) is not None):
        return None
    numbers = range(starts.size) if axes is None else axes.reshape(-1)
    return Move((0,), perm, constants={3: np.array([perm[int(a)] for a in numbers], np.int64)})


def _pad(node: Node, perm: Perm) -> Move | None:
    axes = input_value(node, 3)
    if axes is not None:
        return Move((0,), perm, constants={3: np.array([perm[int(a)] for a in axes], np.int64)})
    pads = input_value(node, 1)
    if pads is None or input_of(node, 3) is not None:
        return None
    before, after = (half[list(inverse(perm))] for half in np.split(pads, 2))
    return Move((0,), perm, constants={1: np.concatenate([before, after])})


def _reduce(node: Node, perm: Perm) -> Move | None:
    axes = input_value(node, 1)
    if axes is None and input_of(node, 1) is not None:
        return None
    keep = node.attrs.get("keepdims", 1)
    if axes is None or axes.size == 0:
        whole = not node.attrs.get("noop_with_empty_axes", 0)
        return Move((0,), () if whole and not keep else perm)
    numbers = [perm[int(a)] for a in axes.reshape(-1)]
    out = perm if keep else without(perm, numbers)
    return Move((0,), out, constants={1: np.array(numbers, np.int64)})


def _squeeze(node: Node, perm: Perm) -> Move | None:
    axes = input_value(node, 1)
    if axes is None or axes.size == 0:
        return None
    numbers = [perm[int(a)] for a in axes.reshape(-1)]
    return Move((0,), without(perm, numbers), constants={1: np.array(numbers, np.int64)})


def _arg(node: Node, perm: Perm) -> Move:
    axis = perm[node.attrs.get("axis", 0)]
    out = perm if node.attrs.get("keepdims", 1) else without(perm, [axis])
    return Move((0,), out, {"axis": axis})


def without(perm: Perm, dropped: Sequence[int]) -> Perm:
    """The permutation that is left when the axes `dropped` of y' are gone."""
    left = [p for p in perm if p not in dropped]
    return tuple(sorted(left).index(p) for p in left)


def shape_under(tensor: Tensor, perm: Perm) -> list[Any] | None:
    """The shape of y', given y."""
    return None if tensor.shape is None else [tensor.shape[k] for k in inverse(perm)]


Rule: TypeAlias = "Callable[[Node, Perm], Move | None]"


def _words(text: str) -> list[str]:
    return text.split()


_UNARY = _words(
    """Abs Acos Asin Atan BitwiseNot Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign
    Sin Softplus Softsign Sqrt Tan Tanh ThresholdedRelu"""
)
_MANY = _words(
    """Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual
    Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"""
)
_REDUCTIONS = _words("L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare")

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_MANY, _elementwise),
    **{f"Reduce{name}": _reduce for name in _REDUCTIONS},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _along_axis(-1)),
    "Split": _along_axis(0),
    "Concat": _along_axis(None, data=None),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "Slice": _slice,
    "Pad": _pad,
    "Squeeze": _squeeze,
}
