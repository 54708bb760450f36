"""What must hold of every graph, before and after every pass: a table of rules.

Each rule yields a sentence per violation; `verify` raises them together. The last rule hands the
structure to onnx's own checker, which knows every operator's signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import onnx

from graphopt.errors import GraphError
from graphopt.ir.graph import Constant, Graph, is_input, label
from graphopt.ir.proto import to_structure

Rule = Callable[[Graph], Iterator[str]]


def verify(graph: Graph) -> None:
    """Raises GraphError listing every violated rule."""
    problems = [f"{rule.__name__}: {text}" for rule in RULES for text in rule(graph)]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise GraphError("; ".join(problems[:3]) + more)


def outputs_are_made(graph: Graph) -> Iterator[str]:
    """Every graph output is computed, an input or a constant, and has a type."""
    for tensor in graph.outputs:
        if not (tensor.inputs or isinstance(tensor, Constant) or is_input(graph, tensor)):
            yield f"output {tensor.name!r} is computed by no node"
        if tensor.dtype is None and not _made_by_custom_op(tensor):
            yield f"output {tensor.name!r} has no type"


def one_producer_each(graph: Graph) -> Iterator[str]:
    """No tensor is computed twice, and inputs and constants are computed by nobody."""
    given = {id(t) for t in graph.inputs}
    read = (t for n in graph.nodes for t in n.inputs)
    made = (t for n in graph.nodes for t in n.outputs)
    every = {id(t): t for t in chain(graph.inputs, graph.outputs, read, made)}
    for tensor in every.values():
        makers = len(tensor.inputs)
        if not makers or not tensor.name:
            continue
        if makers > 1 or isinstance(tensor, Constant) or id(tensor) in given:
            yield f"tensor {tensor.name!r} is computed by {len(tensor.inputs)} nodes"


def names_are_unique(graph: Graph) -> Iterator[str]:
    """One name, one tensor; one name, one node."""
    seen: dict[str, int] = {}
    for node in graph.nodes:
        for tensor in chain(node.inputs, node.outputs):
            if tensor.name and seen.setdefault(tensor.name, id(tensor)) != id(tensor):
                yield f"two tensors are named {tensor.name!r}"
    names = [n.name for n in graph.nodes]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        yield f"two nodes are named {twice!r}"


def order_is_topological(graph: Graph) -> Iterator[str]:
    """A node stands after everything it reads; nothing is read that nobody makes."""
    made = {id(t) for t in graph.inputs}
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.is_empty() or isinstance(tensor, Constant) or id(tensor) in made:
                continue
            yield f"node {label(node)!r} reads {tensor.name!r}, which is not computed before it"
        made.update(id(t) for t in node.outputs)


def no_constant_nodes(graph: Graph) -> Iterator[str]:
    """Constants are constants, not nodes (unless a graph output needs one)."""
    for node in graph.nodes:
        if node.op == "Constant" and not any(t is o for t in node.outputs for o in graph.outputs):
            yield f"node {label(node)!r} is a Constant node"


def onnx_accepts_it(graph: Graph) -> Iterator[str]:
    """onnx.checker finds nothing wrong."""
    model = to_structure(graph)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        yield str(error).strip().splitlines()[0]


RULES: tuple[Rule, ...] = (
    outputs_are_made,
    one_producer_each,
    names_are_unique,
    order_is_topological,
    no_constant_nodes,
    onnx_accepts_it,
)


def _made_by_custom_op(tensor: object) -> bool:
    producers = getattr(tensor, "inputs", [])
    return bool(producers) and producers[0].domain not in ("", "ai.onnx", None)
