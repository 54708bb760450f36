"""Operators that compute each element from the elements at the same place, with broadcasting."""

from __future__ import annotations

from typing import Any

from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import Axis, View

_UNARY = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu
Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
_BROADCAST = """
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual
Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
"""


def _unary(view: View) -> None:
    view.give(view.take_all(0))


def _with_scalars(view: View) -> None:
    # Clip's bounds and Dropout's ratio carry no channels.
    for k in range(len(view.node.outputs)):
        view.give(view.take_all(0), k)


def _cast_like(view: View) -> None:
    view.take_all(1)  # only its type is read, which no removal changes
    view.give(view.take_all(0))


def _broadcast(view: View) -> None:
    sizes = view.out_dims()
    inputs = [(i, view.dims(i)) for i in range(len(view.node.inputs)) if view.has(i)]
    # Axes are counted from the last one.
    view.give([_combined(view, inputs, k - len(sizes), size) for k, size in enumerate(sizes)])


def _combined(view: View, inputs: list[tuple[int, list[Any]]], axis: int, size: Any) -> Axis:
    full: list[tuple[int, int]] = []
    for i, dims in inputs:
        if -axis > len(dims):
            continue
        if dims[axis] == 1 and size != 1:
            view.freeze(view.take(i, axis), "broadcasts its only element")
        else:
            full.append((i, axis))
    return view.meet(*full) if full else None


def _quantized(view: View) -> None:
    """QuantizeLinear, DequantizeLinear: scale and zero point per tensor or along one axis."""
    axes = view.take_all(0)
    axis = int(view.attr("axis", 1))
    for i in (1, 2):
        if not view.has(i) or not view.dims(i) or view.dims(i) == [1]:
            continue
        if len(view.dims(i)) > 1:
            view.freeze(axes[axis], "has a scale per block of channels")
        else:
            axes[axis] = view.join(axes[axis], (i, 0))
    view.give(axes)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY.split(), Rule(_unary)),
    **dict.fromkeys(("Clip", "Dropout"), Rule(_with_scalars)),
    "CastLike": Rule(_cast_like),
    **dict.fromkeys(_BROADCAST.split(), Rule(_broadcast)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), Rule(_quantized)),
}
