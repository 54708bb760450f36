"""What stands in the way of a differentiable view, said before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from graphopt.errors import UnsupportedError
from graphopt.fx.constants import limits_of, torch_type
from graphopt.fx.table import KIND, LIMITS, MODULES, OUTPUTS, row
from graphopt.ir.graph import (
    STANDARD_DOMAINS,
    Constant,
    Graph,
    Node,
    Tensor,
    input_of,
    is_output,
    label,
    rank_of,
    scalar_of,
    value_of,
)

_SHOWN = 3


def check_supported(graph: Graph) -> None:
    """Nothing, if every node of a graph has a differentiable form.

    Raises:
        UnsupportedError: naming the nodes that have none, and why.
    """
    found = list(islice(problems(graph), _SHOWN + 1))
    if found:
        more = "; and more" if len(found) > _SHOWN else ""
        raise UnsupportedError(
            f"no differentiable view: {'; '.join(found[:_SHOWN])}{more}. Gradients need every node "
            "between inputs and outputs: leave out the outputs behind these, or run `simplify` first"
        )


def problems(graph: Graph) -> Iterator[str]:
    """One sentence per node (and constant) that has no differentiable form."""
    for node in graph.nodes:
        reason = _reason(graph, node)
        if reason:
            domain = f"{node.domain}::" if node.domain not in STANDARD_DOMAINS else ""
            yield f"{domain}{node.op} {label(node)!r} {reason}"


def _reason(graph: Graph, node: Node) -> str:
    if node.domain not in STANDARD_DOMAINS:
        return "is not a standard operator"
    if any(isinstance(t, Constant) and torch_type(t.dtype) is None for t in node.inputs):
        return "reads a constant of a type torch does not have"
    if node.op == "Identity":
        return ""
    if node.op in MODULES:
        return _module_reason(graph, node)
    found = row(node.op)
    if found is None:
        return "has no row in the table of operators"
    if ({"to", KIND, LIMITS} & found.keywords) and torch_type(node.outputs[0].dtype) is None:
        return "makes values of a type that torch does not have or that is not known"
    unknown = sorted(set(node.attrs) - found.keywords)
    if unknown:
        return f"has the attribute {unknown[0]!r}, which its row does not know"
    if (
        not found.several
        and OUTPUTS not in found.keywords
        and any(_is_read(graph, t) for t in node.outputs[1:])
    ):
        return "has a second output that is read"
    if node.op == "Resize" and _mixes_integers(node):
        return "mixes integers, which the standard does not say how to round"
    return ""


def _mixes_integers(node: Node) -> bool:
    mode = node.attrs.get("mode", "nearest")
    return mode != "nearest" and limits_of(node.inputs[0].dtype) is not None


def _module_reason(graph: Graph, node: Node) -> str:
    if any(_is_read(graph, t) for t in node.outputs[1:]):
        return "has a second output that is read"
    if node.op == "Dropout":
        ratio = input_of(node, 1)
        return "computes its ratio" if ratio is not None and scalar_of(ratio) is None else ""
    if any(value_of(t) is None for t in node.inputs[1:5]):
        return "computes its statistics, which `simplify` makes constants where it can"
    if rank_of(node.inputs[0]) not in (2, 3, 4, 5):
        return "has an input of unknown rank"
    return ""


def _is_read(graph: Graph, tensor: Tensor) -> bool:
    return bool(tensor.outputs) or is_output(graph, tensor)
