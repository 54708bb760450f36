"""The graph every pass edits: an onnx-graphsurgeon Graph, and the few edits passes are made of.

A pass rewires tensors with `replace_uses` and adds nodes with `add_node`; it never sorts and never
deletes. `sweep` afterwards drops what nobody reads and puts the nodes in topological order, so a
rewrite is two or three lines and cannot leave the node list in a wrong order.

Constant values are shared between copies of a graph: give a constant a new array, never write into one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.copies import copied_node, copied_tensors

# graphsurgeon ships no types, and a node that was matched by operator is known not to be None:
# functions that may find none say so in their docstring.
Node: TypeAlias = Any  # gs.Node
Tensor: TypeAlias = Any  # gs.Tensor
Shape: TypeAlias = "list[int | str | None] | None"

Constant = gs.Constant
Variable = gs.Variable

_GraphBase = gs.Graph

STANDARD_DOMAINS = ("", "ai.onnx", None)


class Graph(gs.Graph):
    """A graphsurgeon graph that also keeps the model's metadata and its used names."""

    def __init__(self, *args: Any, metadata: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.metadata = dict(metadata or {})
        self.header: dict[str, Any] = {}  # what else a model says of itself, by field
        self._names: set[str] | None = None
        self._inner: dict[int, Node] | None = None

    def copy(self, tensor_map: Mapping[str, Tensor] | None = None) -> Graph:
        """A copy with its own nodes and tensors; constant values are shared.

        Args:
            tensor_map: for a subgraph, the copies of tensors outside it, by name.
        """
        copies = copied_tensors(self, tensor_map or {})

        def copied(tensors: Iterable[Tensor]) -> list[Tensor]:
            return [copies[t.name] if t.name else Variable.empty() for t in tensors]

        twin = Graph(
            nodes=[copied_node(n, copied(n.inputs), copied(n.outputs), copies) for n in self.nodes],
            inputs=copied(self.inputs),
            outputs=copied(self.outputs),
            name=self.name,
            doc_string=self.doc_string,
            opset=self.opset,
            import_domains=self.import_domains,
            producer_name=self.producer_name,
            producer_version=self.producer_version,
            functions=self.functions,
            ir_version=self.ir_version,
            metadata=self.metadata,
        )
        twin.header = dict(self.header)
        _share_constants(twin)
        return twin

    def become(self, other: Graph) -> None:
        """Takes over all that another graph is; that one is not to be used any more."""
        self.__dict__.update(other.__dict__)

    def fresh_name(self, base: str) -> str:
        """A tensor or node name nobody in the model uses: `base`, else `base_1`, `base_2`, ..."""
        if self._names is None:
            self._names = set(_all_names(self))
        name, k = base, 0
        while name in self._names or not name:
            k += 1
            name = f"{base}_{k}"
        self._names.add(name)
        return name

    def is_inner(self, node: Node) -> bool:
        """Whether `node` stands in a subgraph of If, Loop or Scan; passes leave those alone."""
        if self._inner is None:
            # The nodes are kept beside their ids: the id of one that is gone may be given out again.
            self._inner = {id(n): n for n in inner_nodes(self)}
        return id(node) in self._inner

    def forget_names(self) -> None:
        """Makes `fresh_name` and `is_inner` look at the graph again (after an edit from outside)."""
        self._names, self._inner = None, None


def _share_constants(graph: gs.Graph) -> None:
    # graphsurgeon copies a constant once for every subgraph that reads it.
    inner = list(inner_nodes(graph))
    if not inner:
        return
    first = {name: t for name, t in graph.tensors().items() if isinstance(t, Constant)}
    for node in inner:
        for i, tensor in enumerate(node.inputs):
            if isinstance(tensor, Constant):
                same = first.setdefault(tensor.name, tensor)
                if same is not tensor:
                    node.inputs[i] = same


def inner_nodes(graph: gs.Graph) -> Iterator[Node]:
    """The nodes in the subgraphs of a graph, at every depth."""
    for node in graph.nodes:
        for sub in subgraphs(node):
            yield from sub.nodes
            yield from inner_nodes(sub)


def subgraphs(node: Node) -> Sequence[gs.Graph]:
    """The bodies of an If, Loop or Scan; none of other nodes."""
    found: tuple[gs.Graph, ...] = ()
    for value in node.attrs.values():
        if isinstance(value, _GraphBase):
            found += (value,)
    return found


def _all_names(graph: gs.Graph) -> Iterator[str]:
    for tensor in [*graph.inputs, *graph.outputs]:
        yield tensor.name
    for node in graph.nodes:
        yield node.name
        yield from (t.name for t in [*node.inputs, *node.outputs])
        for sub in subgraphs(node):
            yield from _all_names(sub)


# --- asking -----------------------------------------------------------------------------------


def is_op(node: Node | None, *ops: str) -> bool:
    """Whether `node` is one of the standard-domain operators `ops`."""
    return node is not None and node.op in ops and node.domain in STANDARD_DOMAINS


def nodes_of(graph: gs.Graph, *ops: str) -> Iterator[Node]:
    """The main graph's standard-domain nodes with one of the operators `ops`, in order.

    Safe to edit under: nodes added meanwhile are not visited, nodes dropped meanwhile are skipped.
    """
    for node in list(graph.nodes):
        if is_op(node, *ops) and node.outputs:
            yield node


def producer(tensor: Tensor | None) -> Node:
    """The node that computes `tensor`; None for inputs, constants and missing tensors."""
    return tensor.inputs[0] if tensor is not None and tensor.inputs else None


def produced_by(tensor: Tensor | None, *ops: str) -> Node:
    """The producer of `tensor` when it is one of the operators `ops`, else None."""
    node = producer(tensor)
    return node if is_op(node, *ops) else None


def is_output(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether `tensor` is an output of `graph`."""
    return any(t is tensor for t in graph.outputs)


def is_input(graph: gs.Graph, tensor: Tensor) -> bool:
    """Whether `tensor` is an input of `graph`."""
    return any(t is tensor for t in graph.inputs)


def sole_reader(graph: Graph, tensor: Tensor) -> Node:
    """The one node of the main graph that reads `tensor` once and alone sees it, else None."""
    if len(tensor.outputs) != 1 or is_output(graph, tensor):
        return None
    reader = tensor.outputs[0]
    return None if graph.is_inner(reader) else reader


def input_of(node: Node, index: int) -> Tensor | None:
    """Input `index`, or None when it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def value_of(tensor: Tensor | None) -> np.ndarray[Any, Any] | None:
    """The array of a constant tensor, else None."""
    if tensor is None or not isinstance(tensor, Constant):
        return None
    values: np.ndarray[Any, Any] = tensor.values
    return values


def input_value(node: Node, index: int) -> np.ndarray[Any, Any] | None:
    """The array of constant input `index`, or None when left out or computed."""
    return value_of(input_of(node, index))


def scalar_of(tensor: Tensor | None) -> float | None:
    """The one number a constant holds (any shape with one element), else None."""
    values = value_of(tensor)
    return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None


def static_shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    if tensor is None or tensor.shape is None:
        return None
    dims = tuple(tensor.shape)
    return dims if all(isinstance(d, int | np.integer) for d in dims) else None


def rank_of(tensor: Tensor | None) -> int | None:
    """The number of dimensions, or None when unknown."""
    return None if tensor is None or tensor.shape is None else len(tensor.shape)


def label(node: Node) -> str:
    """How reports call a node: its name, else the first tensor it makes."""
    return node.name or (node.outputs[0].name if node.outputs else node.op)


# --- editing ----------------------------------------------------------------------------------


def add_constant(graph: Graph, base: str, values: np.ndarray[Any, Any]) -> Tensor:
    """A new constant tensor named after `base`."""
    return Constant(graph.fresh_name(base), np.ascontiguousarray(values).reshape(values.shape))


def add_node(
    graph: Graph,
    op: str,
    inputs: Sequence[Tensor | None],
    *,
    like: Tensor,
    attrs: dict[str, Any] | None = None,
    base: str | None = None,
    shape: Any = "like",
) -> Tensor:
    """Appends a one-output node and returns its output, typed (and shaped) as `like`."""
    base = base or f"{like.name}_{op.lower()}"
    out_shape = like.shape if isinstance(shape, str) else shape
    out = Variable(
        graph.fresh_name(base), like.dtype, None if out_shape is None else list(out_shape)
    )
    filled = [Variable.empty() if t is None else t for t in inputs]
    node = gs.Node(op, graph.fresh_name(out.name + "_node"), dict(attrs or {}), filled, [out])
    graph.nodes.append(node)
    return out


def replace_uses(graph: Graph, old: Tensor, new: Tensor, *, but: Node | None = None) -> None:
    """Everyone who read `old` reads `new` (but the node `but`), and what only served `old` is dropped.

    Graph outputs keep their names and their order: `new` takes over the name of an output it
    replaces, or an Identity is left where it cannot (it is an input, a constant, another output).
    """
    maker = producer(old)
    for reader in list({id(n): n for n in old.outputs if n is not but}.values()):
        for i, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[i] = new
    if is_output(graph, old):
        _replace_output(graph, old, new)
    if maker is not None:
        drop_if_dead(graph, maker)


def _replace_output(graph: Graph, old: Tensor, new: Tensor) -> None:
    if isinstance(new, Constant) or is_input(graph, new) or is_output(graph, new):
        old.inputs.clear()
        name = graph.fresh_name(old.name + "_node")
        graph.nodes.append(gs.Node("Identity", name, {}, [new], [old]))
        return
    name, old.name = old.name, graph.fresh_name(old.name + "_replaced")
    new.name = name
    new.shape = old.shape if new.shape is None else new.shape
    graph.outputs = [new if t is old else t for t in graph.outputs]


def drop_if_dead(graph: Graph, node: Node) -> None:
    """Disconnects a node nobody reads, and then whatever only fed it.

    Counts of readers (`sole_reader`) stay right while a pass runs; `sweep` removes the node later.
    """
    stack = [node]
    while stack:
        each = stack.pop()
        if not each.outputs or any(t.outputs or is_output(graph, t) for t in each.outputs):
            continue
        feeding = [p for t in outer_inputs(each) for p in t.inputs]
        each.inputs.clear()
        each.outputs.clear()
        stack.extend(feeding)


def bypass(graph: Graph, node: Node, index: int = 0) -> None:
    """Readers of the node's output read its input `index` instead."""
    source, out = node.inputs[index], node.outputs[0]
    replace_uses(graph, out, source)


def set_input(node: Node, index: int, tensor: Tensor) -> None:
    """Sets input `index`, filling the gap with left-out inputs."""
    while len(node.inputs) <= index:
        node.inputs.append(Variable.empty())
    node.inputs[index] = tensor


def sweep(graph: gs.Graph) -> None:
    """Drops nodes nobody needs and sorts the rest topologically (stable: ties keep their order)."""
    holders = [n for n in graph.nodes if subgraphs(n)]
    reads = {id(n): n.inputs for n in graph.nodes} | {id(n): outer_inputs(n) for n in holders}
    live = _live_nodes(graph, reads)
    for node in graph.nodes:
        if id(node) not in live:
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes = _sorted([n for n in graph.nodes if id(n) in live], reads)
    for sub in [s for n in holders for s in subgraphs(n)]:
        sub.nodes = _sorted(list(sub.nodes), {id(n): outer_inputs(n) for n in sub.nodes})


def outer_inputs(node: Node) -> Sequence[Tensor]:
    """Every tensor the node needs, its subgraphs' readings of outer tensors included."""
    inner = subgraphs(node)
    if not inner:
        return node.inputs
    found = list(node.inputs)
    for sub in inner:
        found += sub.outputs
        for each in sub.nodes:
            found += outer_inputs(each)
    return found


_Reads = Mapping[int, Sequence[Tensor]]  # what each node needs, by the node's id


def _live_nodes(graph: gs.Graph, reads: _Reads) -> set[int]:
    live: set[int] = set()
    stack = [p for t in graph.outputs for p in t.inputs]
    while stack:
        node = stack.pop()
        if id(node) not in live:
            live.add(id(node))
            for tensor in reads.get(id(node), ()):  # an inner node's readings are its owner's
                stack += tensor.inputs
    return live


def _sorted(order: list[Node], reads: _Reads) -> list[Node]:
    local = {id(n) for n in order}
    if _is_sorted(order, local, reads):
        return order
    done: set[int] = set()
    result: list[Node] = []
    for root in order:
        stack = [(root, iter(_producers(root, local, reads)))] if id(root) not in done else []
        done.add(id(root))
        while stack:
            node, waiting = stack[-1]
            following = next((p for p in waiting if id(p) not in done), None)
            if following is None:
                result.append(node)
                stack.pop()
                continue
            done.add(id(following))
            stack.append((following, iter(_producers(following, local, reads))))
    return result


def _is_sorted(order: Sequence[Node], local: set[int], reads: _Reads) -> bool:
    waiting = local.copy()
    for node in order:
        for tensor in reads[id(node)]:
            for maker in tensor.inputs:
                if id(maker) in waiting:
                    return False
        waiting.discard(id(node))
    return True


def _producers(node: Node, local: set[int], reads: _Reads) -> list[Node]:
    return [p for t in reads[id(node)] for p in t.inputs if id(p) in local]
