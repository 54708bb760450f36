"""Operators that scale and shift channels by constants: BatchNormalization, Mul, Div, Add, Sub.

    op(x) == x * scale + shift,   scale and shift constant per channel

One recogniser serves every pass that folds such an operator into a neighbouring weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, Tensor, input_value, is_op, rank_of, static_shape, value_of
from graphopt.passes.simplify.constant_arithmetic import ARITHMETIC, scale_and_shift

Array = np.ndarray[Any, Any]

AFFINE_OPS = ("BatchNormalization", *ARITHMETIC)


@dataclass(frozen=True)
class Affine:
    """x * scale + shift (float64, one entry per channel), applied to `data`."""

    data: Tensor
    scale: Array
    shift: Array


def data_input(node: Node) -> Tensor | None:
    """The tensor an affine operator scales and shifts: its one computed input, or None."""
    if is_op(node, "BatchNormalization"):
        return node.inputs[0]
    computed = [t for t in node.inputs if value_of(t) is None]
    return computed[0] if len(computed) == 1 and len(node.inputs) == 2 else None


def affine_of(node: Node, channels: int, axis: int) -> Affine | str:
    """The operator as an Affine over `channels` on `axis` of its result, or why it is none."""
    if is_op(node, "BatchNormalization"):
        return why_not_affine(node) or Affine(node.inputs[0], *bn_affine(node))
    data = data_input(node)
    if data is None:
        return "both its operands are computed"
    side = 0 if node.inputs[0] is data else 1
    values = np.asarray(value_of(node.inputs[1 - side]), np.float64)
    constant = _per_channel(values, channels, axis, rank_of(node.outputs[0]))
    if constant is None:
        return f"its constant of shape {list(values.shape)} is not one value per channel"
    if rank_of(data) != rank_of(node.outputs[0]):
        return "its constant adds dimensions"
    return _arithmetic(node.op, data, side, constant)


def _arithmetic(op: str, data: Tensor, side: int, constant: Array) -> Affine | str:
    found = scale_and_shift(op, constant, first=side == 0)
    if found is None:
        return "it divides by the result" if side == 1 else "it divides by zero"
    scale, shift = (np.broadcast_to(part, constant.shape) for part in found)
    return Affine(data, scale, shift)


def _per_channel(values: Array, channels: int, axis: int, rank: int | None) -> Array | None:
    """`values` as one entry per channel, when that is how they broadcast."""
    if values.size == 1:
        return np.full(channels, values.reshape(-1)[0])
    if rank is None or values.ndim > rank or values.size != channels:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    return values.reshape(-1) if shape[axis] == channels else None


def why_not_affine(bn: Node) -> str | None:
    """The reason a BatchNormalization is no constant scale and shift per channel, or None."""
    if bn.attrs.get("training_mode", 0):
        return "it is in training mode, so its statistics change with the batch"
    if any(input_value(bn, i) is None for i in range(1, 5)):
        return "its scale, shift, mean or variance is computed at run time"
    if len([t for t in bn.outputs if t.outputs]) > 1:
        return "its running statistics are read"
    return None


def bn_affine(bn: Node) -> tuple[Array, Array]:
    """scale and shift (float64, one per channel) such that bn(x) == x * scale + shift."""
    gamma, beta, mean, var = (np.asarray(input_value(bn, i), np.float64) for i in range(1, 5))
    scale = gamma / np.sqrt(var + float(bn.attrs.get("epsilon", 1e-5)))
    return scale, beta - mean * scale


def why_not_kept(data: Tensor, result: Tensor) -> str | None:
    """The reason arithmetic may have another shape than its data, or None."""
    if same_shape(data, result):
        return None
    if rank_of(data) is None or rank_of(result) is None:
        return "the number of dimensions of its data is not known"
    return "its constant enlarges the result"


def same_shape(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one known shape (symbolic dimensions compare by name)."""
    if static_shape(a) is not None:
        return static_shape(a) == static_shape(b)
    return a.shape is not None and None not in a.shape and list(a.shape) == list(b.shape or [])
