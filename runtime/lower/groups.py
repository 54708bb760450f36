"""Groups of a convolution that fill no vectors: several are computed as one, with zeros between them.

Kernels read and write whole vectors of channels. Where a group has fewer, or some beyond the last vector,
k groups next to each other become one whose weights are zero where an output is of one group and an
input of another,

    W'[(g o), (h c)] = W[(g o), c] if g == h, else 0        g, h < k

with the smallest k that makes whole vectors of both. That multiplies k times as much as needed: with k
of 16 still far less than one number after the other would take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Constant, Node

Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Filters:
    """The filters of a convolution as its kernel has them.

    Attributes:
        tensor: what holds them, group by group as the graph has them.
        channels: that are summed over, of one group of the kernel's.
        groups: of the kernel's.
    """

    tensor: Constant
    channels: int
    groups: int
    _before: int

    def values(self) -> Values:
        """(O, channels, u, v)."""
        return joined(self.tensor.values, self._before, self._before // self.groups)


def filters_of(node: Node, lanes: int) -> Filters:
    """The filters of a convolution for vectors of so many channels."""
    tensor, groups = node.inputs[1], groups_of(node)
    outputs, inputs = tensor.shape[:2]
    count = together(groups, inputs, outputs // groups, lanes)
    return Filters(tensor, count * inputs, groups // count, groups)


def groups_of(node: Node) -> int:
    """How many groups a convolution has."""
    return int(node.attrs.get("group", 1))


def together(groups: int, inputs: int, outputs: int, lanes: int) -> int:
    """How many groups of so many channels are one for a kernel of vectors; all where no fewer do."""
    for count in range(1, groups):
        if groups % count == 0 and not (count * inputs % lanes or count * outputs % lanes):
            return count
    return groups


def joined(weight: Values, groups: int, count: int) -> Values:
    """Filters (groups * o, c, u, v) for `count` groups at a time: (groups * o, count * c, u, v)."""
    if count == 1:
        return weight
    outputs, inputs = len(weight) // groups, weight.shape[1]
    whole = np.zeros((len(weight), count, *weight.shape[1:]), weight.dtype)
    rows = np.arange(len(weight))
    whole[rows, rows // outputs % count] = weight
    return whole.reshape(len(weight), count * inputs, *weight.shape[2:])
