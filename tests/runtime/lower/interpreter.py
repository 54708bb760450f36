"""Runs a lowered program step by step: its kernels compiled for this machine, its arena an array."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.runtime.codegen import object_file
from graphopt.runtime.lower.arena import Arena, plan
from graphopt.runtime.lower.batch import lower
from graphopt.runtime.lower.program import Memory, Place, Port, Program, Step
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.machine import llvm_target
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.kernels.harness import MACHINES

Values = np.ndarray[Any, Any]
NAN = 0xFF  # a float32 of these bytes is no number: memory that must not be read


def lowered(graph: Graph, machine: str = "avx2") -> Program:
    """The program of a graph whose free dimensions are 1."""
    own = graph.copy()
    fix_sizes(own)
    return lower(own, MACHINES[machine])


class Interpreter:
    """A program with its memory."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program, self.arena = program, plan(program)
        self._memory = _aligned(self.arena.size)
        self._lasting = _aligned(self.arena.lasting)
        self._private = _aligned(program.private)
        kernels = dict.fromkeys(s.kernel for s in [*program.prepare, *program.steps])
        self._names = {kernel: f"k{i}" for i, kernel in enumerate(kernels)}
        if kernels:
            path, library = folder / "k.o", folder / "k.so"
            functions = {n: k.build(n) for k, n in self._names.items()}
            object_file(functions, llvm_target(target("host")), path)
            toolchain_for(target("host")).shared([path], library, libraries=["m"])
            self._library = ctypes.CDLL(str(library))
        for step in program.prepare:
            self._run(step)

    def run(self, feeds: dict[str, Values]) -> dict[str, Values]:
        """The outputs, by name."""
        self._memory[:] = NAN
        for port in self.program.inputs:
            self._view(port)[...] = feeds[port.name]
        for step in self.program.steps:
            self._run(step)
        return {p.name: self._view(p).copy() for p in self.program.outputs}

    def _run(self, step: Step) -> None:
        function = getattr(self._library, self._names[step.kernel])
        places = [ctypes.c_void_p(self._address(p)) for p in step.places]
        function(*places, *((step.begin, step.end) if step.ranged else ()))

    def _address(self, place: Place) -> int:
        if place.of is None:
            return self._private.ctypes.data + place.offset
        if isinstance(place.of, Memory):
            base = self._lasting if place.of.lasting else self._memory
            return base.ctypes.data + self.arena.offsets[place.of] + place.offset
        return self.program.constants[place.of].ctypes.data + place.offset

    def _view(self, port: Port) -> Values:
        place, dtype = port.place, np.dtype(port.dtype)
        size = int(np.prod(port.shape)) * dtype.itemsize
        if isinstance(place.of, Memory):
            start = self.arena.offsets[place.of] + place.offset
            return self._memory[start : start + size].view(dtype).reshape(port.shape)
        constant = self.program.constants[place.of or 0]
        return constant.reshape(port.shape)


def _aligned(size: int) -> Values:
    memory = np.full(size + 128, NAN, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def overlaps(program: Program, arena: Arena) -> list[tuple[str, str]]:
    """Pieces of the arena that are in use at one step and lie over each other."""
    found = []
    lives: dict[Memory, list[int]] = {}
    for index, step in enumerate(program.steps):
        for place in step.places:
            if isinstance(place.of, Memory) and not place.of.lasting:
                lives.setdefault(place.of, []).append(index)
    pieces = list(lives)
    for i, a in enumerate(pieces):
        for b in pieces[i + 1 :]:
            together = min(lives[a]) <= max(lives[b]) and min(lives[b]) <= max(lives[a])
            first, second = sorted((a, b), key=lambda m: arena.offsets[m])
            if together and arena.offsets[first] + first.size > arena.offsets[second]:
                found.append((a.name, b.name))
    return found
