"""Reads additions and multiplications with constants as source * scale + shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, Tensor, is_op, value_of
from graphopt.passes.simplify.polynomial import keeps_shape

Array = np.ndarray[Any, Any]

ARITHMETIC = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Step:
    """A node that computes source * scale + shift with constant arrays."""

    node: Node
    source: Tensor
    scale: Array
    shift: Array


def step_of(node: Node | None) -> Step | None:
    """How a node scales and shifts its input by constants, or None when it does something else."""
    if node is None or not is_op(node, *ARITHMETIC):
        return None
    for k in (0, 1):
        source, constant = node.inputs[k], node.inputs[1 - k]
        values = value_of(constant)
        if values is None or value_of(source) is not None:
            continue
        if not keeps_shape(values.shape, source) or not values.size:
            return None
        affine = scale_and_shift(node.op, values, first=k == 0)
        return None if affine is None else Step(node, source, *affine)
    return None


def scale_and_shift(op: str, values: Array, *, first: bool) -> tuple[Array, Array] | None:
    """scale and shift of the operator with a constant; `first`: the computed operand is the first.

    None for a division by zero, by what is computed, or of integers.
    """
    if values.dtype.kind in "iu":
        wide = values.astype(np.int64)
    elif values.dtype.kind == "f":
        wide = values.astype(np.float64)
    else:
        return None
    one, zero = np.ones((), wide.dtype), np.zeros((), wide.dtype)
    if op == "Add":
        return one, wide
    if op == "Sub":
        return (one, -wide) if first else (-one, wide)
    if op == "Mul":
        return wide, zero
    if not first or not wide.all():
        return None
    if wide.dtype.kind == "i":
        return (wide, zero) if np.all(wide == 1) else None
    return 1.0 / wide, zero


def composed(chain: list[Step]) -> tuple[Array, Array]:
    """scale and shift of the whole chain."""
    scale, shift = np.asarray(1.0), np.asarray(0.0)
    if chain[0].scale.dtype.kind == "i":
        scale, shift = np.asarray(1), np.asarray(0)
    for step in reversed(chain):
        scale, shift = scale * step.scale, shift * step.scale + step.shift
    return scale, shift


def operations(scale: Array, shift: Array) -> list[str]:
    """What is needed to scale and shift."""
    return ["Mul"] * (not np.all(scale == 1)) + ["Add"] * bool(np.any(shift != 0))
