"""Computes the members of transposed regions in the order of axes before the Transposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.graph import (
    Graph,
    Tensor,
    Variable,
    add_constant,
    add_node,
    drop_if_dead,
    is_op,
    produced_by,
    producer,
    replace_uses,
    set_input,
)
from graphopt.passes.simplify.layout import (
    Array,
    Perm,
    composed,
    inverse,
    is_identity,
    perm_of,
    shape_under,
)
from graphopt.passes.simplify.transpose_region import Member


def reorder(graph: Graph, members: Sequence[Member]) -> None:
    """Rewrites the members; adds Transposes where results leave and other operands enter."""
    border = _Border(graph, members)
    makers = [p for m in members for t in m.node.inputs for p in t.inputs]
    for member in members:
        for i in member.move.data:
            member.node.inputs[i] = border.entry(member.node.inputs[i], member.perm)
        for i, values in member.move.constants.items():
            set_input(member.node, i, border.constant(member, i, values))
        member.node.attrs.update(member.move.attrs)
    for member in members:
        for i, out in enumerate(list(member.node.outputs)):
            member.node.outputs[i] = border.held.get(id(out), (out,))[0]
    for maker in makers:
        drop_if_dead(graph, maker)
    for member, out in [(m, t) for m, outs in border.outs for t in outs]:
        border.leave(out, member.move.out)


class _Border:
    """The held twins of the members' results, and the ways in and out of the region."""

    def __init__(self, graph: Graph, members: Sequence[Member]) -> None:
        self._graph = graph
        self._entries: dict[Any, Tensor] = {}
        self._constants: dict[Any, tuple[Tensor, Tensor]] = {}  # with the old one: ids need it
        self._needed = {id(t) for t in graph.outputs}
        self.held: dict[int, tuple[Tensor, Perm]] = {}
        self.outs = [(m, list(m.node.outputs)) for m in members if not is_identity(m.move.out)]
        for member, outs in self.outs:
            for out in outs:
                name, shape = (
                    graph.fresh_name(f"{out.name}_held"),
                    shape_under(out, member.move.out),
                )
                self.held[id(out)] = (Variable(name, out.dtype, shape), member.move.out)

    def entry(self, tensor: Tensor, perm: Perm) -> Tensor:
        """What is `tensor` once transposed by `perm`."""
        source, order = self._source(tensor)
        left = composed(order, inverse(perm)) if order is not None else inverse(perm)
        if is_identity(left):
            return source
        key = (id(tensor), perm)
        if key not in self._entries:
            self._entries[key] = add_node(
                self._graph,
                "Transpose",
                [source],
                like=tensor,
                attrs={"perm": list(left)},
                shape=shape_under(tensor, perm),
            )
        return self._entries[key]

    def _source(self, tensor: Tensor) -> tuple[Tensor, Perm | None]:
        """The tensor that `tensor` is a Transpose of, as held, and under which permutation."""
        if id(tensor) in self.held:
            return self.held[id(tensor)]
        maker = produced_by(tensor, "Transpose")
        perm = perm_of(maker) if maker is not None else None
        if maker is None or perm is None:
            return tensor, None
        source = maker.inputs[0]
        if id(source) in self.held:
            twin, order = self.held[id(source)]
            return twin, composed(order, perm)
        return source, perm

    def constant(self, member: Member, index: int, values: Array) -> Tensor:
        """The constant `values` in place of input `index`; one for all that share the old one."""
        inputs = member.node.inputs
        old = inputs[index] if index < len(inputs) else None
        key = (id(old), member.node.op, member.perm)
        if old is None or old.is_empty() or key not in self._constants:
            name = old.name if old is not None and old.name else f"{member.node.name}_axes"
            self._constants[key] = (old, add_constant(self._graph, name, values))
        return self._constants[key][1]

    def leave(self, out: Tensor, perm: Perm) -> None:
        """Serves everybody outside who still reads `out`, which nobody computes any more."""
        twin = self.held[id(out)][0]
        for reader in [n for n in out.outputs if is_op(n, "Transpose")]:
            order = perm_of(reader)
            if order is None:
                continue
            left = composed(perm, order)
            reader.inputs[0], reader.attrs = twin, {"perm": list(left)}
            if is_identity(left):
                replace_uses(self._graph, reader.outputs[0], twin)
        if out.outputs or id(out) in self._needed:
            attrs = {"perm": list(perm)}
            copy = add_node(self._graph, "Transpose", [twin], like=out, attrs=attrs)
            producer(copy).outputs[0] = out
