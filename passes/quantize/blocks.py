"""Pieces of a network with one way in and one way out: residual blocks, CSP blocks, single layers.

    every way to x leads through e, every way from e leads through x   =>   a block from e to x

e and x are tensors: e dominates x, and x is the first that postdominates e. Dominators are sets of bits,
one sweep in each direction. An activation behind x belongs to the block, and so does the product that
mixes what a Concat joins: without it the parts of the sum of squares would have nothing to do with each
other. Of blocks inside others the largest is taken that holds no more products than asked for; products
outside of all are blocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    is_op,
    is_output,
    outer_inputs,
    producer,
    sole_reader,
)
from graphopt.passes.quantize.layers import activation_behind
from graphopt.passes.quantize.placement import PRODUCTS


@dataclass(frozen=True)
class Block:
    """A piece of a graph.

    Attributes:
        entry: what all of it is computed from.
        exit: what it gives out.
        products: the products in it, in order.
    """

    entry: Tensor
    exit: Tensor
    products: tuple[Node, ...]


def blocks(graph: Graph, products: Sequence[Node], most: int) -> list[Block]:
    """The blocks that hold the `products`, none of them twice, in the order of what they give out.

    Args:
        graph: in float.
        products: of the graph.
        most: how many products a block may hold.
    """
    rank = {id(t): k for k, n in enumerate(graph.nodes) for t in n.outputs}
    wanted = {id(n) for n in products}
    taken: set[int] = set()
    found = []
    larger = sorted(_regions(graph, most), key=lambda r: -len(_products_of(r[2])))
    for entry, end, nodes in larger:
        inside = [n for n in _products_of(nodes) if id(n) in wanted]
        if inside and not any(id(n) in taken for n in nodes):
            taken |= {id(n) for n in nodes}
            found.append(Block(entry, end, tuple(inside)))
    single = [n for n in products if id(n) not in taken]
    found += [Block(n.inputs[0], _seen_through(graph, n.outputs[0]), (n,)) for n in single]
    return sorted(found, key=lambda b: rank[id(b.exit)])


def _regions(graph: Graph, most: int) -> Iterator[tuple[Tensor, Tensor, list[Node]]]:
    """Entry, exit and nodes of everything that holds one to `most` products."""
    flow = _Flow(graph)
    for entry in flow.tensors:
        end = flow.end(entry)
        if end is None:
            continue
        nodes = flow.between(entry, end)
        if not 1 <= len(_products_of(nodes)) <= most:
            continue
        end, more = _mixed(graph, end, most - len(_products_of(nodes)))
        yield entry, end, [*nodes, *more]


def _mixed(graph: Graph, end: Tensor, room: int) -> tuple[Tensor, list[Node]]:
    """The exit behind the activation and, after a join, the product that mixes it."""
    more: list[Node] = []
    reader = sole_reader(graph, end)
    if room and is_op(producer(end), "Concat") and is_op(reader, *PRODUCTS):
        more.append(reader)
        end = reader.outputs[0]
    return _seen_through(graph, end), more


def _seen_through(graph: Graph, tensor: Tensor) -> Tensor:
    behind = activation_behind(graph, tensor)
    return tensor if behind is None else behind


def _products_of(nodes: Sequence[Node]) -> list[Node]:
    return [n for n in nodes if is_op(n, *PRODUCTS)]


class _Flow:
    """What all ways to a tensor and all ways from it lead through, as bits by number of tensor."""

    def __init__(self, graph: Graph) -> None:
        made = [t for n in graph.nodes for t in n.outputs if not t.is_empty()]
        self.tensors: list[Tensor] = [*graph.inputs, *made]
        self._number = {id(t): k for k, t in enumerate(self.tensors)}
        self._everything = (1 << len(self.tensors)) - 1
        self._before = self._ways_to(graph)
        self._after = self._ways_from(graph)

    def _ways_to(self, graph: Graph) -> list[int]:
        given = {id(t) for t in graph.inputs}
        found: list[int] = []
        for k, tensor in enumerate(self.tensors):
            maker = producer(tensor)
            # What is computed from constants alone is on no way.
            shared = 0 if id(tensor) in given else self._everything
            if maker is not None:
                for read in outer_inputs(maker):
                    if id(read) in self._number and not isinstance(read, Constant):
                        shared &= found[self._number[id(read)]]
            found.append(shared | 1 << k)
        return found

    def _ways_from(self, graph: Graph) -> list[int]:
        found = [0] * len(self.tensors)
        readers: dict[int, list[Node]] = {}
        for node in graph.nodes:
            for tensor in outer_inputs(node):
                readers.setdefault(id(tensor), []).append(node)
        for k in range(len(self.tensors) - 1, -1, -1):
            tensor = self.tensors[k]
            shared = 0 if is_output(graph, tensor) else self._everything
            for reader in readers.get(id(tensor), ()):
                for made in reader.outputs:
                    if id(made) in self._number:
                        shared &= found[self._number[id(made)]]
            found[k] = shared | 1 << k
        return found

    def end(self, entry: Tensor) -> Tensor | None:
        """The first tensor all ways from `entry` lead through, if all ways to it come from there."""
        k = self._number[id(entry)]
        after = self._after[k] >> (k + 1)
        if not after or self._after[k] == self._everything:
            return None
        first = k + (after & -after).bit_length()
        return self.tensors[first] if self._before[first] >> k & 1 else None

    def between(self, entry: Tensor, end: Tensor) -> list[Node]:
        """The nodes on the ways from `entry` to `end`."""
        first, last = self._number[id(entry)], self._number[id(end)]
        nodes: dict[int, Node] = {}
        for k in range(first + 1, last + 1):
            if self._before[k] >> first & 1 and self._after[k] >> last & 1:
                maker = producer(self.tensors[k])
                nodes[id(maker)] = maker
        return list(nodes.values())
