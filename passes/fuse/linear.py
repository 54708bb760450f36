"""The linear operators with constant weights, and how their weights absorb a scale and a shift.

    scale * linear(x, w, b) + shift == linear(x, scale_out(w), scale * b + shift)

One place knows each operator's weight layout, so that every folding pass is right for all of them.
Scales and biases are computed in float64; weights are multiplied in their own precision (float16 in
float32), because widening millions of them costs more than all other work of a pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    input_of,
    input_value,
    rank_of,
    set_input,
)

Array = np.ndarray[Any, Any]

LINEAR_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FOLDABLE_TYPES = ("float32", "float64", "float16")


def why_not_scalable(linear: Node) -> str | None:
    """The reason the operator's weights cannot absorb a scale per output channel, or None."""
    weight = input_of(linear, 1)
    values = input_value(linear, 1)
    if values is None:
        return f"the weight of {linear.op} {linear.name} is computed at run time"
    if input_of(linear, 2) is not None and input_value(linear, 2) is None:
        return f"the bias of {linear.op} {linear.name} is computed at run time"
    if str(values.dtype) not in _FOLDABLE_TYPES:
        return f"weights of type {values.dtype} would be rounded again"
    if weight is not None and len(weight.outputs) > 1:
        return f"its weight {weight.name!r} is a shared weight (another node reads it too)"
    if linear.op == "MatMul" and values.ndim != 2:
        return "the MatMul's weight is not a matrix"
    bias = input_value(linear, 2)
    if linear.op == "Gemm" and bias is not None and bias.shape[:-1] not in ((), (1,)):
        return "the Gemm's bias differs from row to row"
    return None


def out_channels(linear: Node) -> int:
    """How many output channels the operator has."""
    weight = linear.inputs[1].values
    if linear.op == "ConvTranspose":
        return int(weight.shape[1]) * int(linear.attrs.get("group", 1))
    if linear.op == "Conv":
        return int(weight.shape[0])
    return int(weight.shape[0 if linear.attrs.get("transB", 0) else 1])


def scale_outputs(graph: Graph, linear: Node, scale: Array, shift: Array) -> None:
    """Gives the operator weights and a bias with `scale` and `shift` (per output channel) folded in."""
    weight = linear.inputs[1]
    new_weight = scaled_weight(linear, weight.values, np.asarray(scale, np.float64))
    bias = bias_of(linear) * scale + shift
    # New constants, never edited ones: arrays are shared with the graph this one was copied from.
    set_input(
        linear,
        1,
        add_constant(graph, weight.name, new_weight.astype(weight.values.dtype, copy=False)),
    )
    if linear.op != "MatMul" or bias.any():
        set_bias(graph, linear, bias)


def set_bias(graph: Graph, linear: Node, bias: Array) -> None:
    """Makes the operator add `bias` (one per output channel); a MatMul becomes a Gemm for it."""
    weight, old = linear.inputs[1], input_of(linear, 2)
    if linear.op == "MatMul":
        linear.op = "Gemm"  # for matrices, Gemm is MatMul with a bias
    linear.attrs.pop("beta", None)  # `bias` is what is added in the end; and beta may be 0
    name = old.name if old is not None else f"{weight.name}_bias"
    set_input(linear, 2, add_constant(graph, name, bias.astype(weight.values.dtype)))


def scaled_weight(linear: Node, weight: Array, scale: Array) -> Array:
    """The weight with every output channel multiplied by its scale, in float32 or wider."""
    wide = weight.astype(np.result_type(weight.dtype, np.float32), copy=False)
    scale = scale.astype(wide.dtype)
    if linear.op == "ConvTranspose":
        # (in, out/group, k...): group g owns rows g*in/group.. and scales g*out/group..
        groups = int(linear.attrs.get("group", 1))
        parts = wide.reshape(groups, wide.shape[0] // groups, *wide.shape[1:])
        factors = scale.reshape(groups, 1, wide.shape[1], *([1] * (wide.ndim - 2)))
        return (parts * factors).reshape(wide.shape)
    if linear.op == "Conv" or linear.attrs.get("transB", 0):
        return wide * scale.reshape(-1, *([1] * (wide.ndim - 1)))
    return wide * scale


def bias_of(linear: Node) -> Array:
    """The bias the operator adds now, one per output channel (float64)."""
    values = input_value(linear, 2)
    channels = out_channels(linear)
    if values is None:
        return np.zeros(channels)
    wide = values.astype(np.float64) * float(linear.attrs.get("beta", 1.0))
    return np.broadcast_to(wide.reshape(-1), (channels,))


def pads_of(conv: Node) -> list[int]:
    """The padding of a Conv or pool: all begins, then all ends."""
    kernel = conv.attrs.get("kernel_shape", ())
    rank = len(kernel) + 2 if kernel else rank_of(conv.inputs[0]) or rank_of(conv.inputs[1]) or 2
    return [int(p) for p in conv.attrs.get("pads", [0] * (2 * (rank - 2)))]
