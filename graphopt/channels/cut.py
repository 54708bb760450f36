"""What a rule sees of one node when channels are taken out: which elements of each axis stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, add_constant, input_of, input_value, set_input

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class Cut:
    """One node under `shrink`. Shapes are still those from before."""

    def __init__(
        self, graph: Graph, node: Node, kept: Callable[[Tensor, Node, int, int], Mask | None]
    ) -> None:
        self.graph, self.node = graph, node
        self._kept = kept

    def kept(self, index: int, axis: int) -> Mask | None:
        """Which elements of an input axis stay; None when all do."""
        tensor = input_of(self.node, index)
        return None if tensor is None else self._kept(tensor, self.node, index, axis)

    def out_kept(self, axis: int, output: int = 0) -> Mask | None:
        """Which elements of an output axis stay; None when all do."""
        return self._kept(self.node.outputs[output], None, 0, axis)

    def old(self, index: int, axis: int) -> int:
        """The size of an input axis before."""
        return int(self.node.inputs[index].shape[axis])

    def new(self, index: int, axis: int) -> int:
        """The size of an input axis after."""
        mask = self.kept(index, axis)
        return self.old(index, axis) if mask is None else int(np.count_nonzero(mask))

    def out_dims(self, output: int = 0) -> list[Any]:
        """The dimensions of an output after."""
        tensor = self.node.outputs[output]
        masks = [self.out_kept(a, output) for a in range(len(tensor.shape))]
        return [
            d if m is None else int(np.count_nonzero(m))
            for d, m in zip(tensor.shape, masks, strict=True)
        ]

    def ints(self, index: int) -> list[int] | None:
        """The numbers of a constant input, or None when it is computed or left out."""
        values = input_value(self.node, index)
        return None if values is None else [int(v) for v in values.reshape(-1)]

    def set_ints(self, index: int, values: Sequence[int], what: str) -> None:
        """Gives the node a constant of its own as input `index`."""
        name = f"{self.node.outputs[0].name}_{what}"
        set_input(self.node, index, add_constant(self.graph, name, np.array(values, np.int64)))


def positions(mask: Mask | None, size: int) -> np.ndarray[Any, Any]:
    """Where each element stands after the others are gone; -1 for those that go."""
    if mask is None:
        return np.arange(size)
    return np.where(mask, np.cumsum(mask) - 1, -1)
