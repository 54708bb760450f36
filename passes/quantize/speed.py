"""Which layers get slower by integers: the compiler's own model of a board's processor is asked.

    left = argmin over sets S of nodes left in float of cycles(network with S in float)

Where a 3x3 convolution of floats is Winograd's, or channels are few, bytes can be slower. What a mixed
network takes is what its lowering would take (`runtime/lower/sketch.py`): kernels, what they fuse, and what
is converted where integers begin and end. The set is improved step by step, from all in integers, all in
float or each node as it is alone faster, whichever is best; so it is never worse than any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Variable,
    add_constant,
    is_op,
    sweep,
)
from graphopt.pass_base import Context
from graphopt.passes.quantize.carry import put_in
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.passes.quantize.placement import PRODUCTS, Placement, weight_axis
from graphopt.registry import LOWERING, pass_class
from graphopt.runtime.lower.batch import of_one
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.lower.sketch import Sketch
from graphopt.runtime.machine import machine_of
from graphopt.runtime.targets import target

Names = frozenset[str]
_MOST_SKETCHES = 150  # so many ways to mix are looked at: half a minute for 75 convolutions
_DEAREST = 20.0  # cycles that converting a value may take, and more than any takes


@dataclass(frozen=True)
class Mixed:
    """What the model says of one way to mix.

    Attributes:
        placement: where integers are.
        cycles: of every node by name.
    """

    placement: Placement
    cycles: Mapping[str, float]

    @property
    def total(self) -> float:
        """Cycles of the network."""
        return sum(self.cycles.values())


class Speed:
    """A float graph on a board's processor, with any of its nodes in integers.

    Attributes:
        told: for reports: the board, and the cycles predicted with everything in integers that can be,
            with all in float, and as it was decided; or why nothing is known.
    """

    def __init__(self, graph: Graph, board: str) -> None:
        """Begins with a graph, which is left as it is."""
        self._graph, self.board = graph, board
        self.told: dict[str, Any] = {"board": board}
        # A network is judged again for everything else that is spared; most mixes are the same.
        self._known: dict[Any, Mapping[str, float]] = {}
        self._fixed: Graph | None = None  # with sizes, for one image
        self._plain = machine_of(target(board))
        self._machine = machine_of(target(board), target(board).precision())

    def mixed(self, placement: Placement) -> Mixed:
        """What the network takes.

        Raises:
            UsageError, UnsupportedError: a size that is not fixed, a shape that is not known.
        """
        key = frozenset(n.name for n in placement.nodes), frozenset(placement.carried.items())
        if key not in self._known:
            self._known[key] = self._sketched(placement)
        return Mixed(placement, self._known[key])

    def _sketched(self, placement: Placement) -> Mapping[str, float]:
        if self._fixed is None:
            fixed = self._graph.copy()
            fix_sizes(fixed)
            self._fixed = of_one(fixed) or fixed
        graph = self._fixed.copy()
        _simulate(graph, placement)
        for name in LOWERING:
            pass_class(name)().run(graph, Context())
        sweep(graph)
        sketch = Sketch(graph, self._machine, self._plain)
        sketch.run()
        return dict(sketch.cycles)

    def slower(self, placed: Callable[[Names], Placement]) -> dict[str, str]:
        """The nodes that are better left in float, each with the reason.

        Args:
            placed: where integers are if these nodes stay in float.
        """
        search = _Search(self, placed)
        try:
            left = search.best()
        except (UsageError, UnsupportedError) as error:
            self.told = {"board": self.board, "unknown": str(error)}
            return {}
        whole, none = search.at(frozenset()), search.at(search.every)
        totals = {"integers": whole.total, "float": none.total, "chosen": search.at(left).total}
        self.told = {"board": self.board, **totals}
        return {n: self._reason(n, whole, none) for n in sorted(left)}

    def _reason(self, name: str, whole: Mixed, none: Mixed) -> str:
        integer, real = (m.cycles.get(name, 0.0) / 1e6 for m in (whole, none))
        if integer <= real:
            return f"its neighbours are faster in float ({self.board}, predicted)"
        return f"integers are slower: {integer:.2f} M cycles against {real:.2f} ({self.board}, predicted)"


class _Search:
    """Improves a set of nodes in float until no step makes the network faster."""

    def __init__(self, speed: Speed, placed: Callable[[Names], Placement]) -> None:
        self._speed, self._placed = speed, placed
        self._known: dict[Names, Mixed] = {}
        self._sketches: dict[Names, Mixed] = {}
        self.nodes = placed(frozenset()).nodes
        self.every = frozenset(n.name for n in self.nodes)
        # Cycles that integers take more, and values that are read and written, by node.
        self._alone: dict[str, float] = {}
        self._moved = {n.name: _values(n) for n in self.nodes}

    def at(self, left: Names) -> Mixed:
        """What the network takes with these in float; found out once for every placement."""
        if left not in self._known:
            placement = self._placed(left)
            inside = frozenset(n.name for n in placement.nodes)
            if inside not in self._sketches:
                self._sketches[inside] = self._speed.mixed(placement)
            self._known[left] = self._sketches[inside]
        return self._known[left]

    def best(self) -> Names:
        """The set with the fewest cycles that is found; the first where several have as many."""
        whole, none = self.at(frozenset()), self.at(self.every)
        for name in self.every:
            self._alone[name] = whole.cycles.get(name, 0.0) - none.cycles.get(name, 0.0)
        signs = frozenset(n for n, more in self._alone.items() if more > 0)
        best = min((frozenset(), self.every, signs), key=lambda s: self.at(s).total)
        while True:
            better = self._swept(best)
            if better == best:
                return best
            best = better

    def _swept(self, best: Names) -> Names:
        """The set after every step was tried once, and taken where it makes the network faster."""
        for turned in self.steps(best):
            if len(self._sketches) >= _MOST_SKETCHES:
                break
            new = best ^ turned
            if self._may_pay(turned, best) and self.at(new).total < self.at(best).total:
                best = new
        return best

    def steps(self, left: Names) -> list[Names]:
        """What is turned over at once: a region of neighbours of one kind, a node, or two."""
        found = [*self._regions(left), *(frozenset((n.name,)) for n in self.nodes)]
        # What is converted for two of them goes only when both are turned.
        found += [frozenset((n.name, other)) for n in self.nodes for other in self._before(n)]
        return list(dict.fromkeys(found))

    def _may_pay(self, turned: Names, left: Names) -> bool:
        """Whether turning these over may save more in conversions than it loses in the nodes themselves."""
        lost = sum(self._alone[n] * (1 if n in left else -1) for n in turned)
        return lost < _DEAREST * sum(self._moved[n] for n in turned)

    def _regions(self, left: Names) -> list[Names]:
        """The nodes, cut into connected pieces that are all in float or all in integers."""
        piece: dict[str, set[str]] = {}
        for node in self.nodes:
            mine = piece.setdefault(node.name, {node.name})
            for other in self._before(node):
                if (other in left) is (node.name in left) and piece[other] is not mine:
                    mine |= piece[other]
                    piece.update(dict.fromkeys(piece[other], mine))
        return list(dict.fromkeys(frozenset(p) for p in piece.values()))

    def _before(self, node: Node) -> list[str]:
        """Names of the nearest of our nodes that a node's inputs are made of."""
        found, stack, seen = list[str](), list(node.inputs), set[int]()
        while stack:
            for made in stack.pop().inputs:
                if made.name in self.every:
                    found.append(made.name)
                elif id(made) not in seen:
                    seen.add(id(made))
                    stack += made.inputs
        return found


def _values(node: Node) -> int:
    """Values a node reads and writes, weights apart."""
    tensors = [t for t in (*node.inputs, *node.outputs) if not isinstance(t, Constant)]
    return sum(prod(d if isinstance(d, int) else 1 for d in t.shape or (0,)) for t in tensors)


# --- a rounded network, without its numbers ------------------------------------------------------------


def _simulate(graph: Graph, placement: Placement) -> None:
    """Puts in pairs and weights of integers as quantizing would, but of no meaning."""
    grids = {
        number: Grid(KINDS["int8"], np.asarray(1 + number, np.float32), np.asarray(0))
        for number in placement.carried.values()
    }
    put_in(graph, placement, grids)
    inside = {n.name for n in placement.nodes}
    for node in graph.nodes:
        if node.name in inside and is_op(node, *PRODUCTS) and isinstance(node.inputs[1], Constant):
            node.inputs[1] = _bytes(graph, node, node.inputs[1])
    sweep(graph)


def _bytes(graph: Graph, node: Node, weight: Constant) -> Variable:
    """A weight of as many integers."""
    axis = weight_axis(node) or 0
    scale = np.ones(weight.shape[axis], np.float32)
    parts = [np.zeros(weight.shape, np.int8), scale, np.zeros(len(scale), np.int8)]
    name = graph.fresh_name(f"{weight.name}_bytes")
    inputs = [add_constant(graph, f"{name}_{i}", p) for i, p in enumerate(parts)]
    made = Variable(f"{name}_numbers", np.float32, list(weight.shape))
    graph.nodes.append(gs.Node("DequantizeLinear", name, {"axis": axis}, inputs, [made]))
    return made
