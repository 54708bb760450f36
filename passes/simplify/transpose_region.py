"""Which nodes to compute in another order of axes so that fewer Transposes are left.

A region is a set of nodes whose data is held in the order it had before a Transpose (see layout.py).
On its border Transposes vanish (the inverse ones behind it, those before it that nobody else reads),
and others become necessary (results read outside, operands that come from elsewhere). Starting from
everything that can be reached from a Transpose, nodes are given up as long as that costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    is_op,
    nodes_of,
    outer_inputs,
    produced_by,
    producer,
)
from graphopt.passes.simplify.layout import Move, Perm, composed, is_identity, moved, perm_of

_ROUNDS = 20


@dataclass(frozen=True)
class Member:
    """A node of a region, the order its data is held in, and what it becomes."""

    node: Node
    perm: Perm
    move: Move

    def reads(self, tensor: Tensor) -> bool:
        """Whether `tensor` is data of this node (not axes, bounds or scales)."""
        return any(self.node.inputs[i] is tensor for i in self.move.data)


class Regions:
    """All regions of a graph; `worthwhile` yields those that save Transposes."""

    def __init__(self, graph: Graph) -> None:
        self._seen_outside = {id(t) for t in graph.outputs}
        for node in graph.nodes:
            if any(True for _ in node.subgraphs()):
                self._seen_outside |= {id(t) for t in outer_inputs(node)}
        self._members: dict[int, Member] = {}
        self._grow(graph)
        self._cancelling = list(self._find_cancelling(graph))
        self._prune(graph)

    def member(self, node: Node | None) -> Member | None:
        """The node as a member of a region, or None."""
        return self._members.get(id(node)) if node is not None else None

    def held_under(self, tensor: Tensor) -> Perm | None:
        """The order a tensor made inside a region is held in, or None."""
        maker = self.member(producer(tensor))
        return None if maker is None or is_identity(maker.move.out) else maker.move.out

    def needed(self, tensor: Tensor) -> set[Perm]:
        """The orders in which members of regions read a tensor."""
        readers = (self.member(n) for n in tensor.outputs)
        return {m.perm for m in readers if m is not None and m.reads(tensor)}

    def is_seen(self, tensor: Tensor, perm: Perm) -> bool:
        """Whether anybody but members under `perm` and Transposes needs the tensor."""
        if id(tensor) in self._seen_outside:
            return True
        for reader in tensor.outputs:
            member = self.member(reader)
            inside = member is not None and member.perm == perm and member.reads(tensor)
            if not inside and not is_op(reader, "Transpose"):
                return True
        return False

    def worthwhile(self) -> Iterator[list[Member]]:
        """The connected regions that leave fewer Transposes than there were."""
        for region in self._connected():
            tensors = {id(t): t for m in region for t in _around(m.node)}
            if sum(self._cost(t) for t in tensors.values()) < 0:
                yield region

    def missed(self) -> list[Node]:
        """Transposes whose inverse stands before them, across nodes that were given up."""
        return [n for n in self._cancelling if n.inputs and self.held_under(n.inputs[0]) is None]

    # --- growing and pruning ------------------------------------------------------------------

    def _grow(self, graph: Graph) -> None:
        nodes = {id(n) for n in graph.nodes}
        starts = [(t.outputs[0], perm_of(t)) for t in nodes_of(graph, "Transpose")]
        stack = [(t, p) for t, p in reversed(starts) if p is not None]
        while stack:
            tensor, perm = stack.pop()
            for reader in tensor.outputs:
                if id(reader) in self._members or id(reader) not in nodes:
                    continue
                move = moved(reader, perm)
                if move is None or not any(reader.inputs[i] is tensor for i in move.data):
                    continue
                self._members[id(reader)] = Member(reader, perm, move)
                if not is_identity(move.out):
                    stack += [(out, move.out) for out in reader.outputs]

    def _find_cancelling(self, graph: Graph) -> Iterator[Node]:
        for node in nodes_of(graph, "Transpose"):
            held, perm = self.held_under(node.inputs[0]), perm_of(node)
            if held is not None and perm is not None and is_identity(composed(held, perm)):
                yield node

    def _prune(self, graph: Graph) -> None:
        order = [n for n in reversed(graph.nodes) if id(n) in self._members]
        for _ in range(_ROUNDS):
            left = [n for n in order if not self._give_up(n)]
            if len(left) == len(order):
                return
            order = left

    def _give_up(self, node: Node) -> bool:
        """Leaves the node out of its region unless that costs a Transpose."""
        around = {id(t): t for t in _around(node)}.values()
        before = sum(self._cost(t) for t in around)
        member = self._members.pop(id(node))
        if sum(self._cost(t) for t in around) <= before:
            return True
        self._members[id(node)] = member
        return False

    def _cost(self, tensor: Tensor) -> int:
        """How many Transposes more than now there are because of this tensor."""
        if isinstance(tensor, Constant):
            return 0
        held = self.held_under(tensor)
        needed = self.needed(tensor)
        if held is not None:
            exits = [perm_of(n) for n in tensor.outputs if is_op(n, "Transpose")]
            saved = sum(1 for q in exits if q is not None and is_identity(composed(held, q)))
            return int(self.is_seen(tensor, held)) + len(needed - {held}) - saved
        maker = produced_by(tensor, "Transpose")
        perm = perm_of(maker) if maker is not None else None
        if maker is None or perm is None:
            return len(needed)
        # What the Transpose reads may itself be held: then it is one from that order to this.
        before = self.held_under(maker.inputs[0])
        perm = perm if before is None else composed(before, perm)
        if is_identity(perm):
            return len(needed)  # it was counted as saved behind the region before it
        # Only when every reader takes the data in the order before it does the Transpose vanish.
        members = [self.member(n) for n in tensor.outputs]
        inside = all(m is not None and m.reads(tensor) for m in members)
        vanishes = bool(members) and inside and id(tensor) not in self._seen_outside
        return len(needed - {perm}) - int(vanishes)

    def _connected(self) -> Iterator[list[Member]]:
        waiting = dict(self._members)
        while waiting:
            stack, region = [waiting.pop(next(iter(waiting)))], []
            while stack:
                member = stack.pop()
                region.append(member)
                for tensor in _around(member.node):
                    if isinstance(tensor, Constant):
                        continue
                    near = [*tensor.inputs, *tensor.outputs]
                    stack += [waiting.pop(id(n)) for n in near if id(n) in waiting]
            yield region


def _around(node: Node) -> Iterator[Tensor]:
    yield from (t for t in node.inputs if not t.is_empty())
    for out in node.outputs:
        yield out
        yield from (n.outputs[0] for n in out.outputs if is_op(n, "Transpose") and n.outputs)
