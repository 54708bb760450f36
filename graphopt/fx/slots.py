"""What stands in the slots of an operator's function.

An operator of the FX view is a Python function whose positional parameters are the ONNX inputs and
whose keyword-only parameters are the ONNX attributes with their ONNX defaults:

    def reshape(data: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor: ...

The annotation says how a constant arrives: a slot of `Ints`, `Floats` or `Scalar` gets Python numbers, any
other gets a parameter or a buffer of the module. What is computed arrives as a tensor in every
slot. A function with a keyword `outputs` is told how many results are asked for, one with `kind` the type
of the first, one with `limits` the smallest and largest integer of that type.

Integers carry no gradients in torch. So what QuantizeLinear makes is held as floating-point numbers that
are whole (a result annotated `Whole`) until something reads it that has to have integers, or it leaves
the graph; DequantizeLinear takes either (a slot of `Whole`), and operators that only move values
(`table.MOVEMENTS`) keep what they are given. NaN stays NaN on that way, so that a training that has gone
wrong shows. Types of 4 bits are held as 8 bits where they are integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Ints: TypeAlias = Sequence[int] | Tensor
Floats: TypeAlias = Sequence[float] | Tensor
Scalar: TypeAlias = float | int | Tensor
Whole: TypeAlias = Tensor

# How the annotations read, since they are not evaluated.
NUMBERS, SCALAR, WHOLE = ("Ints", "Floats"), "Scalar", "Whole"


def ints(values: Ints) -> list[int]:
    """Python numbers from what stands in a slot of `Ints`; a tensor is waited for."""
    if isinstance(values, Tensor):
        found = values.reshape(-1).tolist()
        return [int(v) for v in found]
    return list(values)


def number(value: Scalar) -> float | int:
    """The Python number in a slot of `Scalar`."""
    if isinstance(value, Tensor):
        return value.reshape(()).item()
    return value


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front."""
    return axis + rank if axis < 0 else axis


def host(
    values: list[int] | list[float] | list[bool], shape: list[int], kind: torch.dtype
) -> Tensor:
    """A small constant of shape arithmetic, which stays on the CPU whatever the module is on."""
    return torch.tensor(values, dtype=kind).reshape(shape)


def as_integers(value: Whole, kind: torch.dtype, limits: tuple[int, int]) -> Tensor:
    """Whole numbers in floating point as integers; what is no number is the lowest, as in ONNX Runtime."""
    return torch.nan_to_num(value.detach(), nan=limits[0]).to(kind)


def as_whole(value: Tensor) -> Whole:
    """Integers of at most 16 bits as floating-point numbers, which hold them exactly."""
    return value.to(torch.float32)


def on_device_of(value: Tensor, like: Tensor) -> Tensor:
    """A result of shape arithmetic where it meets the data."""
    return value.to(like.device)
