"""Gives the nodes of a placement their narrow type, with a Cast where types meet.

Every tensor has the type its producer computes in; whoever wants it in the other type reads the one
Cast of it. Graph inputs and outputs, and what subgraphs read, keep float32 unless asked otherwise.
"""

from __future__ import annotations

import numpy as np
import onnx

from graphopt.channels.sweep import read_inside
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    Variable,
    add_constant,
    add_node,
    is_output,
)
from graphopt.passes.quantize.narrow_floats import Narrow, Placement, is_wide

_FLOAT32 = np.dtype(np.float32)


def convert(graph: Graph, found: Placement, kind: Narrow, *, narrow_io: bool) -> int:
    """Rewrites types in place; how many Casts that took.

    Args:
        graph: the graph the placement was made for.
        found: which places of which nodes become narrow.
        kind: the type.
        narrow_io: whether the model's float32 inputs and outputs become narrow as well.
    """
    return _Converter(graph, found, kind, narrow_io).run()


class _Converter:
    def __init__(self, graph: Graph, found: Placement, kind: Narrow, narrow_io: bool) -> None:
        self._graph, self._found, self._kind = graph, found, kind
        self._narrow_io = narrow_io
        self._seen = read_inside(graph)
        self._other: dict[int, Tensor] = {}  # by tensor, the same in the other type
        self._held: list[Tensor] = []  # the id of a tensor that is gone may be given out again
        self._casts = 0

    def run(self) -> int:
        nodes = list(self._graph.nodes)
        wide = {id(n): [i for i, t in enumerate(n.inputs) if is_wide(t)] for n in nodes}
        if self._narrow_io:
            for tensor in self._graph.inputs:
                if is_wide(tensor) and id(tensor) not in self._seen:
                    tensor.dtype = self._kind.dtype
        for node in nodes:
            slots = self._found.narrow.get(id(node))
            for index in wide[id(node)]:
                wants_narrow = slots is not None and index in slots.inputs
                node.inputs[index] = self._as(node.inputs[index], narrow=wants_narrow)
            if slots is not None:
                for index in slots.outputs:
                    self._make_narrow(node, index)
        if self._narrow_io:
            self._narrow_outputs()
        return self._casts

    def _as(self, tensor: Tensor, *, narrow: bool) -> Tensor:
        """The tensor in the type wanted."""
        if is_wide(tensor) is not narrow:
            return tensor
        known = self._other.get(id(tensor))
        if known is None:
            known = self._other[id(tensor)] = self._cast(tensor, narrow=narrow)
            self._held.append(tensor)
        return known

    def _cast(self, tensor: Tensor, *, narrow: bool) -> Tensor:
        if isinstance(tensor, Constant):
            with np.errstate(over="ignore"):
                return add_constant(
                    self._graph, tensor.name, tensor.values.astype(self._kind.dtype)
                )
        self._casts += 1
        name = self._kind.name if narrow else "float32"
        number = self._kind.number if narrow else int(onnx.TensorProto.FLOAT)
        base = f"{tensor.name}_{name}"
        out = add_node(self._graph, "Cast", [tensor], like=tensor, attrs={"to": number}, base=base)
        out.dtype = self._kind.dtype if narrow else _FLOAT32
        return out

    def _make_narrow(self, node: Node, index: int) -> None:
        """Makes an output narrow; who sees it from outside gets it in float32."""
        tensor = node.outputs[index]
        if node.op == "Cast":
            node.attrs["to"] = self._kind.number
        given_out = is_output(self._graph, tensor)
        inside = any(self._graph.is_inner(r) for r in tensor.outputs)
        if id(tensor) not in self._seen or (given_out and self._narrow_io and not inside):
            tensor.dtype = self._kind.dtype
            return
        name = self._graph.fresh_name(f"{tensor.name}_{self._kind.name}")
        own = Variable(name, self._kind.dtype, tensor.shape)
        node.outputs[index] = own
        readers = [(r, i) for r in tensor.outputs for i, t in enumerate(r.inputs) if t is tensor]
        self._link(own, tensor)
        for reader, i in dict.fromkeys((id(r), i) for r, i in readers):
            each = next(r for r, _ in readers if id(r) == reader)
            if not self._graph.is_inner(each):
                each.inputs[i] = own

    def _link(self, own: Tensor, tensor: Tensor) -> None:
        """Makes `tensor` the float32 Cast of `own`."""
        made = self._as(own, narrow=False)
        cast = made.inputs[0]
        cast.outputs[0] = tensor
        self._other[id(own)] = tensor
        self._held.append(own)

    def _narrow_outputs(self) -> None:
        """Casts outputs that are computed in float32."""
        for index, tensor in enumerate(list(self._graph.outputs)):
            if not is_wide(tensor) or isinstance(tensor, Constant) or not tensor.inputs:
                continue
            cast = self._as(tensor, narrow=True)
            tensor.name, cast.name = self._graph.fresh_name(f"{tensor.name}_float32"), tensor.name
            self._graph.outputs[index] = cast
