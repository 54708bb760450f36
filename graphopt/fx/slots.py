"""What stands in the slots of an operator's function.

An operator of the FX view is a Python function whose positional parameters are the ONNX inputs and
whose keyword-only parameters are the ONNX attributes with their ONNX defaults:

    def reshape(data: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor: ...

The annotation says how a constant arrives: a slot of `Ints`, `Floats` or `Scalar` gets Python numbers, any
other gets a parameter or a buffer of the module. What is computed arrives as a tensor in every
slot. A function with a keyword `outputs` is told how many results are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Ints: TypeAlias = Sequence[int] | Tensor
Floats: TypeAlias = Sequence[float] | Tensor
Scalar: TypeAlias = float | int | Tensor

# How the annotations read, since they are not evaluated.
NUMBERS, SCALAR = ("Ints", "Floats"), "Scalar"


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


def on_device_of(value: Tensor, like: Tensor) -> Tensor:
    """A result of shape arithmetic where it meets the data."""
    return value.to(like.device)
