"""Compiles kernels for this machine and calls them on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime.codegen import object_file
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.machine import llvm_target
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

Values = np.ndarray[Any, Any]

# Vectors of any width compile for any processor, so every way to write a kernel is run here.
MACHINES = {
    "neon": Machine(4, 32, True, 2, 2, 4, 1 << 19, 4.0),
    "avx2": Machine(8, 16, False, 2, 2, 4, 1 << 19, 4.0),
    "avx512": Machine(16, 32, False, 2, 2, 4, 1 << 20, 4.0),
}
BIG = 64  # elements around arrays, for vectors that are read past an end


def compiled(kernels: dict[str, Any], folder: Path) -> Any:
    """A library with kernels as functions."""
    host = target("host")
    path = folder / "kernels.o"
    object_file({n: k.build(n) for n, k in kernels.items()}, llvm_target(host), path)
    library = folder / "kernels.so"
    toolchain_for(host).shared([path], library, libraries=["m"])
    return ctypes.CDLL(str(library))


def call(function: Any, arrays: Sequence[Values], begin: int, end: int) -> None:
    """Runs parts begin .. end - 1."""
    function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), begin, end)


@dataclass
class Stored:
    """A blocked image with a border, filled with what must not be read."""

    channels: int
    height: int
    width: int
    lanes: int
    top: int = 0
    bottom: int = 0
    gap: int = 0
    fill: float = np.nan

    def __post_init__(self) -> None:
        pitch = self.width + self.gap
        rows = self.top + self.height + self.bottom
        self.blocks = -(-self.channels // self.lanes)
        self.strides = Strides(pitch * self.lanes, (rows * pitch + self.gap) * self.lanes)
        self.memory = np.full(self.blocks * self.strides.plane + BIG, self.fill, np.float32)
        self._first = self.top * self.strides.row + self.gap * self.lanes

    @property
    def pixels(self) -> Values:
        """Memory from the first pixel on: what a kernel is given."""
        return self.memory[self._first :]

    @property
    def view(self) -> Values:
        """[blocks][H][W][lanes] of the memory."""
        strides = (self.strides.plane * 4, self.strides.row * 4, self.lanes * 4, 4)
        shape = (self.blocks, self.height, self.width, self.lanes)
        return np.lib.stride_tricks.as_strided(self.pixels, shape, strides)

    def put(self, values: Values) -> Stored:
        """Stores (C, H, W), zeros in lanes beyond and in the border."""
        self.memory[:-BIG] = 0
        padded = np.zeros((self.blocks * self.lanes, *values.shape[1:]), np.float32)
        padded[: self.channels] = values
        shape = (self.blocks, self.lanes, self.height, self.width)
        self.view[:] = padded.reshape(shape).transpose(0, 2, 3, 1)
        return self

    def get(self) -> Values:
        """(C, H, W) as it is stored."""
        shape = (self.blocks * self.lanes, self.height, self.width)
        return self.view.transpose(0, 3, 1, 2).reshape(shape)[: self.channels].copy()

    def outside(self) -> Values:
        """All of the memory that is no pixel."""
        mask = np.ones_like(self.memory, bool)
        strides = (self.strides.plane, self.strides.row, self.lanes, 1)
        shape = (self.blocks, self.height, self.width, self.lanes)
        inner = np.lib.stride_tricks.as_strided(mask[self._first :], shape, strides)
        inner[:] = False
        return self.memory[mask]
