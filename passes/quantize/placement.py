"""Where a network computes in integers: which nodes, and which tensors are carried as integers.

The rules of a target name the operators it has integer kernels for. From them:

1. products (convolutions, Gemm, MatMul) are quantized, whatever stands around them;
2. everything that reads an integer is quantized where there is a kernel, its other operands too;
3. what no integer reader follows is left in float: quantizing it would cost accuracy and gain nothing;
4. tensors that integers merely pass through (pooling, reshaping, ...) share one grid.

The first products, the last ones and all that follows those (a detector's decoding, whose boxes and
scores would share a grid) stay in float unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    input_of,
    is_op,
    label,
    producer,
    rank_of,
    sole_reader,
)
from graphopt.passes.quantize.named import named_nodes
from graphopt.passes.quantize.observe.curves import gated_by
from graphopt.passes.quantize.pairs import QUANTIZED_OPS
from graphopt.passes.quantize.rules import Rules, is_fusable, why_not_integer

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Placement:
    """What is quantized.

    Attributes:
        nodes: the quantized nodes in order.
        results: for each of them (by id) the tensors its results are rounded at: its own outputs, or
            that of the activation computed with it.
        carried: the tensors carried as integers in order, each with the number of its grid.
        refused: nodes left in float although the target has kernels for their operators, and why.
        wide: the numbers of the grids that have 16 bits.
    """

    nodes: list[Node] = field(default_factory=list)
    results: dict[int, list[Tensor]] = field(default_factory=dict)
    carried: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[Node, str]] = field(default_factory=list)
    wide: frozenset[int] = frozenset()

    def groups(self) -> list[list[str]]:
        """The names of the tensors of each grid."""
        found: dict[int, list[str]] = {}
        for name, number in self.carried.items():
            found.setdefault(number, []).append(name)
        return list(found.values())

    def widened(self) -> list[str]:
        """The names of the tensors that are carried in 16 bits."""
        return [name for name, number in self.carried.items() if number in self.wide]


def place(
    graph: Graph,
    rules: Rules,
    *,
    keep: Iterable[str] = (),
    first: bool = False,
    last: bool = False,
    without: Iterable[str] = (),
    slower: Mapping[str, str] | None = None,
) -> Placement:
    """Decides what to quantize.

    Args:
        graph: in normal form, in float.
        rules: of the target.
        keep: names, operators or globs of nodes to leave in float.
        first: whether products that read the model's inputs are quantized too.
        last: whether the last products before the outputs are quantized too.
        without: names of tensors that cannot be carried as integers.
        slower: names of nodes that stay in float because integers take longer, with the reasons.

    Raises:
        UnsupportedError: the graph is quantized already.
        UsageError: something in `keep` that matches nothing.
    """
    _check_float(graph)
    choice = _Choice(graph, keep, first, last)
    choice.leave(graph, slower or {})
    return _Placer(graph, rules, choice, frozenset(without)).place()


def _check_float(graph: Graph) -> None:
    node = next((n for n in graph.nodes if is_op(n, *QUANTIZED_OPS)), None)
    if node is not None:
        raise UnsupportedError(
            f"the model is quantized already ({node.op} {label(node)!r}): quantize the float model "
            "it was made from"
        )


# --- what stays in float by wish ------------------------------------------------------------------


class _Choice:
    """Why a node stays in float whatever the target can do."""

    def __init__(self, graph: Graph, keep: Iterable[str], first: bool, last: bool) -> None:
        self._reasons: dict[int, str] = {}
        after = list(head(graph))
        self._mark([n for n in after if n.op not in PRODUCTS], "it follows the last product")
        if not last:
            self._mark([n for n in after if n.op in PRODUCTS], "it is a last product")
        if not first:
            self._mark(stem(graph), "it is a first product")
        self._mark(named_nodes(graph, keep), "it is kept in float as asked")

    def leave(self, graph: Graph, reasons: Mapping[str, str]) -> None:
        """Leaves nodes in float, by name."""
        for node in graph.nodes:
            if node.name in reasons:
                self._mark([node], reasons[node.name])

    def _mark(self, nodes: Iterable[Node], reason: str) -> None:
        for node in nodes:
            self._reasons.setdefault(id(node), reason)

    def reason(self, node: Node) -> str | None:
        """Why the node stays in float, or None."""
        return self._reasons.get(id(node))


def stem(graph: Graph) -> Iterator[Node]:
    """The products that read an input of the model before any other product does."""
    reached = {id(t) for t in graph.inputs}
    for node in graph.nodes:
        if not any(id(t) in reached for t in node.inputs):
            continue
        if is_op(node, *PRODUCTS):
            yield node
        else:
            reached |= {id(t) for t in node.outputs}


def head(graph: Graph) -> Iterator[Node]:
    """Walking back from the outputs: every node up to the last products, and these."""
    seen: set[int] = set()
    stack = [p for t in graph.outputs if (p := producer(t)) is not None]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not is_op(node, *PRODUCTS):
            stack += [p for t in node.inputs if (p := producer(t)) is not None]


# --- the placement --------------------------------------------------------------------------------


class _Placer:
    def __init__(
        self, graph: Graph, rules: Rules, choice: _Choice, without: frozenset[str]
    ) -> None:
        self.graph, self.rules, self.choice, self.without = graph, rules, choice, without
        self.found = Placement()
        self.integer: dict[int, Node] = {}
        self.absorbed: set[int] = set()

    def place(self) -> Placement:
        order = [n for n in self.graph.nodes if n.outputs]
        for node in order:
            if is_op(node, *self.rules.products) and self._may(node):
                self._take(node)
        carried = self._carried_by_products()
        for node in order:
            if self._reads_integers(node, carried) and self._may(node):
                self._take(node)
                carried |= {id(t) for t in self.found.results[id(node)]}
        self._drop_useless(order)
        if self.rules.ends_in_numbers:
            self._open(order)
        self.found.nodes = [n for n in order if id(n) in self.integer]
        self._number()
        return self.found

    def _may(self, node: Node) -> bool:
        if id(node) in self.absorbed or id(node) in self.integer:
            return False
        reason = (
            self.choice.reason(node)
            or ("it stands in a subgraph" if self.graph.is_inner(node) else None)
            or why_not_integer(node)
            or self._why_not_floats(node)
            or self._why_not_carried(node)
        )
        if reason:
            self.found.refused.append((node, reason))
        return reason is None

    def _why_not_floats(self, node: Node) -> str | None:
        tensors = [*self._operands(node), node.outputs[0]]
        return None if all(t.dtype == np.float32 for t in tensors) else "it is not float32"

    def _why_not_carried(self, node: Node) -> str | None:
        """A tensor it would read or make as integers that cannot be."""
        results, _ = self._rounded_at(node)
        names = [t.name for t in (*self._operands(node), *results) if t.name in self.without]
        return f"tensor {names[0]!r} cannot be carried as integers" if names else None

    def _take(self, node: Node) -> None:
        self.integer[id(node)] = node
        results, absorbed = self._rounded_at(node)
        self.found.results[id(node)] = results
        self.absorbed |= {id(n) for n in absorbed}

    def _rounded_at(self, node: Node) -> tuple[list[Tensor], list[Node]]:
        """Where results become integers: behind an activation the target computes with the node."""
        if is_op(node, *self.rules.moves) or len(node.outputs) > 1:
            return list(node.outputs), []
        out = node.outputs[0]
        reader = sole_reader(self.graph, out)
        if reader is not None and self._fuses(reader, out):
            return [reader.outputs[0]], [reader]
        gate = gated_by(self.graph, out)
        if gate is not None and is_fusable(gate[0], self.rules) and "Swish" in self.rules.fused:
            return [gate[1].outputs[0]], list(gate)
        return [out], []

    def _fuses(self, reader: Node, out: Tensor) -> bool:
        is_free = reader.inputs[0] is out and self.choice.reason(reader) is None
        return is_free and is_fusable(reader, self.rules)

    def _operands(self, node: Node) -> list[Tensor]:
        """The tensors a node reads as integers: not weights, biases, shapes or bounds."""
        if is_op(node, "Conv", "ConvTranspose", "Gemm"):
            return [node.inputs[0]]
        if is_op(node, "MatMul"):
            return [t for t in node.inputs if not isinstance(t, Constant)]
        if is_op(node, "Add", "Mul", "Concat"):
            return list(node.inputs)
        return [node.inputs[0]]

    def _carried_by_products(self) -> set[int]:
        read = {id(t) for n in self.integer.values() for t in self._operands(n)}
        return read | {id(t) for found in self.found.results.values() for t in found}

    def _reads_integers(self, node: Node, carried: set[int]) -> bool:
        """Whether it reads an integer; rounding its other operands is cheaper than widening this one."""
        if not is_op(node, *self.rules.arithmetic, *self.rules.moves):
            return False
        return input_of(node, 0) is not None and any(id(t) in carried for t in self._operands(node))

    def _drop_useless(self, order: list[Node]) -> None:
        """Takes out what no integer reader follows, from the back."""
        for node in reversed(order):
            if id(node) not in self.integer or is_op(node, *self.rules.products):
                continue
            results = self.found.results[id(node)]
            if not any(self._has_integer_reader(t) for t in results):
                del self.integer[id(node)], self.found.results[id(node)]
                self.found.refused.append((node, "nothing behind it computes in integers"))

    def _open(self, order: list[Node]) -> None:
        """Results of products that nobody reads as integers are numbers: their sums need no rounding."""
        for node in order:
            if id(node) in self.integer and is_op(node, *self.rules.products):
                results = self.found.results[id(node)]
                self.found.results[id(node)] = [
                    t for t in results if not t.outputs or self._has_integer_reader(t)
                ]

    def _has_integer_reader(self, tensor: Tensor) -> bool:
        return any(
            id(n) in self.integer and any(t is tensor for t in self._operands(n))
            for n in tensor.outputs
        )

    def _number(self) -> None:
        """Numbers the grids: tensors that integers pass through unchanged have the same."""
        same = _Same()
        for node in self.found.nodes:
            results = self.found.results[id(node)]
            operands = self._operands(node)
            for tensor in (*operands, *results):
                same.find(tensor.name)
            if is_op(node, *self.rules.moves, *self.rules.shared):
                for tensor in (*operands[1:], *results):
                    same.join(operands[0].name, tensor.name)
        numbers: dict[str, int] = {}
        for name in same.names():
            self.found.carried[name] = numbers.setdefault(same.find(name), len(numbers))


class _Same:
    """Sets of names that are joined."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The first name of the set `name` is in."""
        parent = self._parent.setdefault(name, name)
        while parent != self._parent[parent]:
            parent = self._parent[parent]
        self._parent[name] = parent
        return parent

    def join(self, one: str, other: str) -> None:
        """Makes one set of two."""
        self._parent[self.find(other)] = self.find(one)

    def names(self) -> list[str]:
        """All names in the order they were seen."""
        return list(self._parent)


def weight_axis(node: Node) -> int | None:
    """The axis of a product's output channels in its weight, or None where there is none."""
    if is_op(node, "Conv"):
        return 0
    if is_op(node, "ConvTranspose"):
        return 1 if node.attrs.get("group", 1) == 1 else None
    if is_op(node, "Gemm"):
        return 0 if node.attrs.get("transB", 0) else 1
    rank = rank_of(node.inputs[1])
    return None if rank is None else rank - 1
