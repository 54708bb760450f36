"""What a step of a GPU's program runs: a kernel's text, and how many work-items run it.

Every array of a kernel is two parameters, a memory and an offset in bytes, so that one allocation can
hold them all; what kernels are written in is described in `cl/kernels.h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Work-items of a group where nothing speaks for another number: two warps, four of a Mali's.
GROUP = 64

Size = tuple[int, int, int]


class GpuKernel(Protocol):
    """Equal kernels are compiled once."""

    @property
    def groups(self) -> Size:
        """Work-groups along each axis."""

    @property
    def local(self) -> Size:
        """Work-items of a group along each axis."""

    def text(self, name: str) -> str:
        """The kernel in OpenCL C; `name` is what it is called."""

    def build(self, name: str) -> str:
        """The same, as programs for processors ask for it."""


@dataclass(frozen=True)
class Array:
    """An array of a kernel.

    Attributes:
        name: in the kernel's text.
        type: of an element, as OpenCL C calls it.
        written: whether the kernel writes to it.
    """

    name: str
    type: str = "element"
    written: bool = False


def written_kernel(name: str, local: Size, arrays: Sequence[Array], body: str) -> str:
    """The text of a kernel."""
    parameters, views = [], []
    for index, array in enumerate(arrays):
        const = "" if array.written else "const "
        parameters.append(f"__global {const}uchar *restrict m{index}, const ulong o{index}")
        kind = f"__global {const}{array.type} *"
        views.append(f"{kind}const {array.name} = ({kind})(m{index} + o{index});")
    head = f"KERNEL({', '.join(map(str, local))}) void {name}({', '.join(parameters)}) {{"
    return "\n".join([head, indented("\n".join([*views, body])), "}", ""])


def indented(text: str) -> str:
    """The text, one level deeper."""
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())


class Written:
    """A kernel whose parts are given by its class: arrays, body, items."""

    arrays: tuple[Array, ...]
    local: Size = (GROUP, 1, 1)

    @property
    def items(self) -> Size:
        """Work-items that have work, along each axis."""
        raise NotImplementedError

    @property
    def groups(self) -> Size:
        """Work-groups along each axis."""
        return tuple(-(-i // n) for i, n in zip(self.items, self.local, strict=True))  # type: ignore[return-value]

    def body(self) -> str:
        """The text behind the arrays."""
        raise NotImplementedError

    def text(self, name: str) -> str:
        """The kernel in OpenCL C."""
        return written_kernel(name, self.local, self.arrays, self.body())

    def build(self, name: str) -> str:
        """The same."""
        return self.text(name)


def item(axis: int, local: Size) -> str:
    """The number of a work-item along an axis."""
    if local[axis] == 1:
        return f"(int)get_group_id({axis})"
    return f"((int)get_group_id({axis}) * {local[axis]} + (int)get_local_id({axis}))"
