"""A compiled network as data: memory, constants, and a straight line of kernel calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Constant = np.ndarray[Any, Any]


class Kernel(Protocol):
    """What a step runs: equal kernels are compiled once."""

    def build(self, name: str) -> Any:
        """The TIR function."""


@dataclass(eq=False)
class Memory:
    """A piece of memory.

    Attributes:
        name: the tensor it holds, for people.
        size: bytes.
        lasting: whether it is written once, when the network is loaded; other memory is a piece of
            the arena, in use from one step to another.
    """

    name: str
    size: int
    lasting: bool = False


@dataclass(frozen=True)
class Place:
    """A pointer a kernel is given.

    `of` is a piece of the arena, the number of a constant, or None for memory that every thread has
    for itself. `offset` counts bytes.
    """

    of: Memory | int | None
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """kernel(places, begin, end): the parts are shared among threads.

    Attributes:
        what: the graph's nodes it computes, for profiles and errors.
        macs: multiply-accumulates of those nodes.
        private: bytes of memory every thread needs for itself.
        ranged: whether the kernel takes a range of parts; a function of TVM's does all at once.
    """

    kernel: Kernel
    places: tuple[Place, ...]
    begin: int
    end: int
    what: str
    macs: int = 0
    private: int = 0
    ranged: bool = True


@dataclass(frozen=True)
class Port:
    """An input or output of the network, row-major."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    place: Place

    @property
    def bytes(self) -> int:
        """Of all its values."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass
class Program:
    """Everything that is needed to write the network down for a machine.

    Attributes:
        prepare: steps that run once, when the network is loaded; they write lasting memory.
        steps: steps of every run, in order.
    """

    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    prepare: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)

    def constant(self, values: Constant) -> Place:
        """A place for values that never change."""
        self.constants.append(np.ascontiguousarray(values))
        return Place(len(self.constants) - 1)

    @property
    def private(self) -> int:
        """Bytes of memory one thread needs for itself."""
        return max((s.private for s in self.steps), default=0)
