"""A graph put down in outline: which kernels it takes and what the model expects of each, nothing packed.

Precision is chosen by it: the same lowering that compiles a network says what a network that is float
here and integer there would take, what it fuses and converts included.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from graphopt.ir.graph import Graph, Node
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.lowering import Emit, Lowering, is_alias
from graphopt.runtime.lower.plan_generic import computed_inputs
from graphopt.runtime.lower.predict import cycles
from graphopt.runtime.lower.program import Kernel, Memory, Place, Program


class Sketch(Lowering):
    """A lowering that keeps no constants and counts cycles by node.

    Operators without a kernel of ours count nothing: they are the same in every precision.

    Attributes:
        cycles: of every node's kernels by its name, with what they convert to read and what they fuse.
    """

    def __init__(self, graph: Graph, machine: Machine, plain_machine: Machine) -> None:
        """Begins with a graph of fixed sizes, which is changed."""
        super().__init__(graph, machine, plain_machine)
        self.cycles: Counter[str] = Counter()
        self._now = ""

    @property
    def total(self) -> float:
        """Cycles of the whole network, once it has run."""
        return float(sum(self.cycles.values()))

    def run(self) -> Program:
        """The program, whose constants are nothing: see `cycles`.

        Raises:
            UnsupportedError: a shape that is not fixed.
        """
        return super().run()

    def plan(self, region: Region) -> None:
        """Plans the kernels of one region."""
        self._now = region.first.name
        if self._is_ours(region):
            super().plan(region)
            return
        for tensor in computed_inputs(region.first):
            self.plain(tensor)
        for tensor in region.first.outputs:
            self.make_plain(tensor)

    def _is_ours(self, region: Region) -> bool:
        node: Node = region.first
        return self.layout.kind(node) is not None or bool(region.nodes) or is_alias(node)

    def constant(self, key: tuple[Any, ...], make: Any, owner: object = None) -> Place:  # noqa: ARG002
        """No constant is made."""
        return Place(0)

    def prepared(self, kernel: Any, given: Place, name: str) -> Place:  # noqa: ARG002
        """Nothing is prepared either."""
        return Place(Memory(name, 0, lasting=True))

    def later(self, emit: Emit) -> None:
        """Hands in what writes steps, which count for the node that is planned now."""
        name = self._now

        def named() -> None:
            self._now = name
            emit()

        super().later(named)

    def step(
        self, kernel: Kernel, places: tuple[Place, ...], parts: int, what: str, **_: Any
    ) -> None:
        """Counts a step instead of writing it."""
        del places, what
        self.cycles[self._now] += cycles(kernel, parts, self.plain_machine)  # type: ignore[assignment]
