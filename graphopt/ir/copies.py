"""Copies of the tensors and nodes of a graph, without graphsurgeon's bookkeeping of every assignment.

graphsurgeon keeps tensors and nodes in step by watching what is assigned to them; a copy that nothing
is linked to yet cannot be out of step, and is filled in directly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList

Node: TypeAlias = Any  # gs.Node
Tensor: TypeAlias = Any  # gs.Tensor


def copied_tensors(graph: gs.Graph, outer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all tensors of a graph, by name; those made outside of it are in `outer`."""
    every = [*graph.inputs, *(t for n in graph.nodes for t in [*n.inputs, *n.outputs])]
    found = {t.name: t for t in [*every, *graph.outputs] if t.name}
    if outer:
        own = {t.name for n in graph.nodes for t in n.outputs} | {t.name for t in graph.inputs}
        found = {
            name: t
            for name, t in found.items()
            if name not in outer or name in own or isinstance(t, gs.Constant)
        }
    return {**outer, **{name: _copied_tensor(t) for name, t in found.items()}}


def _copied_tensor(tensor: Tensor) -> Tensor:
    """A copy that no node is linked to yet; graphsurgeon's own copies forget what is no tensor."""
    twin = object.__new__(gs.Constant if isinstance(tensor, gs.Constant) else gs.Variable)
    # Not by assignment, which graphsurgeon watches: nothing can be out of step yet.
    fields = twin.__dict__
    fields.update(tensor.__dict__)
    fields["inputs"] = _unlinked(twin, "outputs")
    fields["outputs"] = _unlinked(twin, "inputs")
    return twin


def _linked(owner: Node | Tensor, field: str, elements: Iterable[Any]) -> list[Any]:
    """A SynchronizedList of `owner`, which is entered in every element's `field`."""
    made = _unlinked(owner, field)
    list.extend(made, elements)
    for each in elements:
        list.append(each.__dict__[field], owner)
    return made


def _unlinked(owner: Node | Tensor, field: str) -> list[Any]:
    """An empty SynchronizedList of `owner`."""
    made: SynchronizedList = SynchronizedList.__new__(SynchronizedList)
    made.__dict__ = {"parent_obj": owner, "field_name": field}
    return made


def copied_node(
    node: Node, inputs: list[Tensor], outputs: list[Tensor], copies: Mapping[str, Tensor]
) -> Node:
    """A copy of a node, its subgraphs included, between copies of its tensors.

    Args:
        node: the node.
        inputs, outputs: the copies it reads and makes.
        copies: those its subgraphs may read, by name.
    """
    attrs = OrderedDict(node.attrs)
    for name, value in attrs.items():
        if type(value) is list:
            attrs[name] = value.copy()
        elif isinstance(value, gs.Graph):
            attrs[name] = value.copy(copies)
    twin = object.__new__(gs.Node)
    twin.__dict__.update(op=node.op, name=node.name, attrs=attrs, domain=node.domain)
    twin.__dict__["inputs"] = _linked(twin, "outputs", inputs)
    twin.__dict__["outputs"] = _linked(twin, "inputs", outputs)
    return twin
