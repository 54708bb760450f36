"""Runs a graph in pieces, so that what comes later can be edited in view of what came before.

    stops  t_1, t_2, ...    tensors in the order of the graph, in groups
    held at stop k          the fewest tensors from which t_k and all later stops can be computed

Mending layer after layer needs what a layer reads once everything before it is mended. Running the
network anew for each of n layers costs n^2 / 2 layers; here each is run once, because what the rest of
the network needs is kept for all batches. Rounded tensors are kept as their integers, in a quarter of
the space, and where that is still too much the last batches are left out from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.data import some
from graphopt.ir.graph import Constant, Graph, Node, Tensor, is_op, outer_inputs, producer, sweep
from graphopt.runtime.run import Feeds, open_graph

Array = np.ndarray[Any, Any]

MEMORY = 1 << 30  # bytes of activations that are held
_HELD_AS_INTEGERS = ("uint8", "int8", "uint16", "int16")


class Walk:
    """A walk along the stops of a graph, with a few batches of images."""

    def __init__(
        self,
        graph: Graph,
        stops: Sequence[Sequence[str]],
        data: Iterable[Feeds],
        *,
        memory: int = MEMORY,
    ) -> None:
        """Stands before the first stop.

        Args:
            graph: what comes after the current stop may be edited, tensors keeping their names.
            stops: groups of tensor names, in topological order.
            data: feeds for the graph's inputs, a batch at a time.
            memory: how many bytes to hold at most.

        Raises:
            UsageError: there is no data.
        """
        self.graph = graph
        self._stops = [list(s) for s in stops]
        self._memory = memory
        self._done: set[str] = set()  # names of nodes that have been run
        self._held: list[dict[str, Array]] = [dict(feeds) for feeds in some(data)]

    @property
    def batches(self) -> int:
        """How many batches are held: the first ones."""
        return len(self._held)

    def advance(self) -> None:
        """Goes on to the next stop: whatever its tensors are computed from is held then."""
        here = self._stops.pop(0)
        tensors = self.graph.tensors()
        done = self._done | {n.name for n in _ancestors([tensors[t] for t in here])}
        wanted = [tensors[name] for stop in (here, *self._stops) for name in stop]
        keep = list(dict.fromkeys(t.name for t in _roots(wanted, done)))
        self._run_to(keep)
        self._done = done

    def _run_to(self, keep: list[str]) -> None:
        missing = [name for name in keep if name not in self._held[0]]
        piece = self.piece(missing) if missing else None
        runner = open_graph(piece) if piece is not None else None
        size = 0
        for k, held in enumerate(self._held):
            made = runner.run(_fed(piece, held)) if runner is not None else {}
            self._held[k] = {name: made[name] if name in made else held[name] for name in keep}
            size += sum(a.nbytes for a in self._held[k].values())
            if size > self._memory and k:
                del self._held[k:]
                return

    def piece(self, names: Iterable[str]) -> Graph:
        """The part of the graph, as it is now, that computes tensors from what is held."""
        return piece_of(self.graph, self._held[0], names)

    def feeds(self, piece: Graph) -> Iterator[Feeds]:
        """What a piece reads, a batch at a time."""
        return (_fed(piece, held) for held in self._held)

    def values(self, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Tensors that can be computed from what is held, a batch at a time."""
        given = [n for n in names if n in self._held[0]]
        others = [n for n in names if n not in self._held[0]]
        piece = self.piece(others) if others else None
        runner = open_graph(piece) if piece is not None else None
        for held in self._held:
            made = runner.run(_fed(piece, held)) if runner is not None else {}
            yield {**made, **{n: held[n] for n in given}}


def piece_of(graph: Graph, given: Iterable[str], names: Iterable[str]) -> Graph:
    """A copy of what computes the tensors `names` from the tensors `given` (and constants)."""
    twin = graph.copy()
    tensors = twin.tensors()
    twin.outputs = [tensors[n] for n in names]
    starts = [tensors[n] for n in given if n in tensors]
    for tensor in starts:
        tensor.inputs.clear()
    twin.inputs = [t for t in twin.inputs if not any(t is s for s in starts)]
    sweep(twin)
    read = {id(t) for n in twin.nodes for t in outer_inputs(n)}
    twin.inputs = [t for t in [*twin.inputs, *starts] if id(t) in read]
    return twin


def waves(graph: Graph, nodes: Sequence[Node]) -> list[list[Node]]:
    """Nodes in the order of the graph, in groups none of whose members needs another."""
    rank = {id(n): k for k, n in enumerate(graph.nodes)}
    found: list[list[Node]] = []
    for node in sorted(nodes, key=lambda n: rank[id(n)]):
        before = {n.name for n in _ancestors(node.inputs)}
        if found and not any(n.name in before for n in found[-1]):
            found[-1].append(node)
        else:
            found.append([node])
    return found


def _ancestors(tensors: Iterable[Tensor]) -> list[Node]:
    """Every node the tensors are computed by."""
    found: dict[int, Node] = {}
    stack = [p for t in tensors for p in t.inputs]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack += [p for t in outer_inputs(node) for p in t.inputs]
    return list(found.values())


def _roots(tensors: Iterable[Tensor], done: set[str]) -> Iterator[Tensor]:
    """What has to be held to compute tensors without running `done` nodes again."""
    seen: set[int] = set()
    stack = list(tensors)
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen or isinstance(tensor, Constant) or tensor.is_empty():
            continue
        seen.add(id(tensor))
        maker = producer(tensor)
        if maker is None or (maker.name in done and not _is_unpacking(maker)):
            yield tensor
        else:
            stack += outer_inputs(maker)


def _is_unpacking(node: Node) -> bool:
    """Whether a node makes floats of integers that are smaller, so that these are held."""
    if not is_op(node, "DequantizeLinear"):
        return False
    return str(np.dtype(node.inputs[0].dtype)) in _HELD_AS_INTEGERS


def _fed(piece: Graph | None, held: dict[str, Array]) -> Feeds:
    return {t.name: held[t.name] for t in piece.inputs} if piece is not None else {}
