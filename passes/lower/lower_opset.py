"""Writes a graph in the operators of an earlier opset, for readers that know no later one.

    HardSwish(x) == x * HardSigmoid(x),   Mish(x) == x * tanh(softplus(x)),   ...

What the earlier opset has under another spelling is respelled, what it has not is computed from what it
has (`older_operators`). A node that it can express in no way is an error that names it: a graph that is
half of one opset and half of another is no graph. Not handled: subgraphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx.defs

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.graph import Graph, Node, label, subgraphs
from graphopt.ir.opset import set_opset
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.lower.older_operators import older

_OLDEST = 13  # before, what are inputs today were attributes of Squeeze, Unsqueeze and ReduceSum


@dataclass(frozen=True)
class LowerOpset(Pass):
    """Later operators become earlier ones: HardSwish(x) == x * HardSigmoid(x)."""

    name: ClassVar[str] = "lower-opset"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    opset: int = 13

    def run(self, graph: Graph, context: Context) -> None:
        if not _OLDEST <= self.opset <= graph.opset:
            raise UsageError(
                f"opset={self.opset} is not one of {_OLDEST} to {graph.opset}, the model's own"
            )
        for node in list(graph.nodes):
            if unfit(node, self.opset):
                op = node.op
                older(graph, node)
                context.rewrote(node, f"{op} in the words of opset {self.opset}")
        for node in graph.nodes:
            reason = unfit(node, self.opset) if node.outputs else ""
            if reason:
                raise UnsupportedError(f"{label(node)} cannot be of opset {self.opset}: {reason}")
        if graph.nodes and self.opset != graph.opset:
            context.rewrote(graph.nodes[-1], f"the graph is of opset {self.opset}")
            set_opset(graph, self.opset)


def unfit(node: Node, opset: int) -> str:
    """Why a node cannot stand in a graph of an opset; empty if it can."""
    if node.domain not in (None, "", "ai.onnx"):
        return ""
    if subgraphs(node):
        return "it has subgraphs"
    try:
        schema = onnx.defs.get_schema(node.op, opset)
    except onnx.defs.SchemaError:
        return f"the operator {node.op} came later"
    strange = sorted(set(node.attrs) - set(schema.attributes))
    if strange:
        return f"its attribute {strange[0]} came later"
    given = [t for t in node.inputs if not t.is_empty()]
    if len(given) > schema.max_input:
        return f"it has {len(given)} inputs, then at most {schema.max_input}"
    return _strange_type(node, schema)


def _strange_type(node: Node, schema: Any) -> str:
    ports = [*zip(node.inputs, schema.inputs, strict=False)]
    known = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for tensor, port in ports:
        allowed = known.get(port.type_str)
        if tensor.dtype is None or allowed is None:
            continue
        kind = _type_name(tensor.dtype)
        if kind and f"tensor({kind})" not in allowed:
            return f"{tensor.name} is {kind}, which it did not take then"
    return ""


def _type_name(dtype: Any) -> str:
    """ONNX's name of a type of numpy's; empty for those numpy does not know."""
    name = str(getattr(dtype, "name", "") or getattr(dtype, "__name__", ""))
    return {"float32": "float", "float64": "double", "str": "string"}.get(name, name)
