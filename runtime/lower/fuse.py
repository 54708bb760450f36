"""Which elementwise operators are computed where their input is made, and what they compute.

A region is a node and elementwise nodes after it that only it feeds, up to one tensor that others
read. Its operators become the expression the node's kernel ends in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, Tensor, input_value, is_op, is_output, static_shape
from graphopt.runtime.kernels.pointwise import Apply

# Attributes with the values ONNX gives them when they are left out.
_DEFAULTS: dict[str, dict[str, float]] = {
    "LeakyRelu": {"alpha": 0.01},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Celu": {"alpha": 1.0},
}
UNARY = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Mish", "Gelu"),
    *("Softplus", "Softsign", "Elu", "Selu", "Celu", "Erf", "Exp", "Abs", "Neg", "Floor", "Ceil"),
    *("Sqrt", "Identity"),
)
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu", "Pow")
ELEMENTWISE = (*UNARY, *BINARY)
# A longer expression would not stay in registers.
_LONGEST = 16


@dataclass
class Region:
    """A node with the elementwise ones it absorbs.

    Attributes:
        first: the node whose kernel computes all of them.
        nodes: the absorbed ones, in order.
        out: the one tensor that is stored.
        rounding: the QuantizeLinear that puts it on a grid before it is stored, or None.
    """

    first: Node
    nodes: list[Node]
    out: Tensor
    rounding: Node | None = None


def grown(
    graph: Graph, first: Node, start: list[Node], may_take: Callable[[Node, set[int]], bool]
) -> Region:
    """The largest region from `first` on.

    Args:
        graph: the graph.
        first: the node that makes the main value.
        start: `first` itself when it is elementwise, else nothing.
        may_take: whether a node can be computed where these tensors (by id) are at hand.
    """
    nodes = list(start)
    values = {id(first.outputs[0])}
    region = Region(first, list(nodes), first.outputs[0])
    open_tensors = [first.outputs[0]]
    while open_tensors and len(nodes) < _LONGEST:
        found = _next(open_tensors, nodes, lambda n: may_take(n, values))
        if found is None:
            break
        nodes.append(found)
        values.add(id(found.outputs[0]))
        open_tensors.append(found.outputs[0])
        seen = [t for t in open_tensors if _is_seen(graph, t, nodes)]
        if len(seen) == 1 and seen[0] is found.outputs[0]:
            region = Region(first, list(nodes), found.outputs[0])
    return region


def _next(tensors: list[Tensor], taken: list[Node], may_take: Callable[[Node], bool]) -> Node:
    for tensor in tensors:
        for reader in tensor.outputs:
            if (
                not any(reader is n for n in taken)
                and is_op(reader, *ELEMENTWISE)
                and may_take(reader)
            ):
                return reader
    return None


def _is_seen(graph: Graph, tensor: Tensor, nodes: list[Node]) -> bool:
    """Whether anything but `nodes` reads the tensor."""
    if is_output(graph, tensor) or not tensor.outputs:
        return True
    return any(not any(r is n for n in nodes) for r in tensor.outputs)


def attributes(node: Node) -> dict[str, float] | None:
    """The numbers an elementwise operator is told, or None when run time tells them."""
    found = dict(_DEFAULTS.get(node.op, {}))
    found.update({k: float(v) for k, v in node.attrs.items() if isinstance(v, int | float)})
    if node.op == "Clip":
        for index, name in ((1, "min"), (2, "max")):
            if index < len(node.inputs) and not node.inputs[index].is_empty():
                value = input_value(node, index)
                if value is None or value.size != 1:
                    return None
                found[name] = float(value.reshape(-1)[0])
    if node.op == "Gelu" and node.attrs.get("approximate", "none") != "none":
        return None
    return found


@dataclass
class ExpressionText:
    """An expression while it is put together; operands are asked from the caller."""

    operands: list[Any] = field(default_factory=list)
    steps: list[Apply] = field(default_factory=list)


def text_of(region: Region, main: Tensor, operand: Callable[[Tensor], Any]) -> ExpressionText:
    """The region's operators as steps; operand(tensor) says how a tensor from outside is read."""
    text = ExpressionText()
    inner = {id(main), *(id(n.outputs[0]) for n in region.nodes)}
    outside: dict[int, Tensor] = {}
    for node in region.nodes:
        for tensor in _data_inputs(node):
            if id(tensor) not in inner and _scalar(tensor) is None:
                outside.setdefault(id(tensor), tensor)
    numbers: dict[int, int] = {id(main): 0}
    for tensor in outside.values():
        text.operands.append(operand(tensor))
        numbers[id(tensor)] = len(text.operands)
    for node in region.nodes:
        _add_step(text, numbers, node)
    return text


def _add_step(text: ExpressionText, numbers: dict[int, int], node: Node) -> None:
    def number(tensor: Tensor) -> int:
        value = _scalar(tensor)
        if value is None or id(tensor) in numbers:
            return numbers[id(tensor)]
        return _append(text, Apply("Constant", (), (("value", value),)))

    taken = [number(t) for t in _data_inputs(node)]
    if node.op == "Pow":
        op, inputs = _power(node, taken[0])
        made = _append(text, Apply(op, inputs))
    else:
        told = {} if node.op == "Identity" else attributes(node) or {}
        made = _append(text, Apply(node.op, tuple(taken), tuple(sorted(told.items()))))
    numbers[id(node.outputs[0])] = made


def _append(text: ExpressionText, step: Apply) -> int:
    text.steps.append(step)
    return len(text.operands) + len(text.steps)


def _power(node: Node, base: int) -> tuple[str, tuple[int, ...]]:
    exponent = _scalar(node.inputs[1])
    return ("Mul", (base, base)) if exponent == 2 else ("Sqrt", (base,))


def _data_inputs(node: Node) -> list[Tensor]:
    if node.op == "Pow":
        return [node.inputs[0]]
    return list(node.inputs) if node.op in BINARY else [node.inputs[0]]


def _scalar(tensor: Tensor) -> float | None:
    values = getattr(tensor, "values", None)
    return (
        float(np.asarray(values).reshape(-1)[0])
        if values is not None and values.size == 1
        else None
    )


def per_channel(tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """A constant as one value per channel of an image of `shape`, or None when it is something else."""
    values = getattr(tensor, "values", None)
    if values is None or values.ndim > 4:
        return None
    full = (1,) * (4 - values.ndim) + values.shape
    return values.reshape(-1) if full == (1, shape[1], 1, 1) else None


def can_be_fused(node: Node, shape: tuple[int, ...], is_read: Callable[[Tensor], bool]) -> bool:
    """Whether an elementwise node over images of `shape` has a formula and operands at hand.

    `is_read` says whether a computed tensor can be read where the result is written.
    """
    if static_shape(node.outputs[0]) != shape or str(node.outputs[0].dtype) != "float32":
        return False
    if len(node.outputs) != 1 or attributes(node) is None:
        return False
    if node.op == "Pow" and _scalar(node.inputs[1]) not in (2.0, 0.5):
        return False
    if node.op in ("Min", "Max") and len(node.inputs) != 2:
        return False
    return all(
        _scalar(t) is not None or per_channel(t, shape) is not None or is_read(t)
        for t in _data_inputs(node)
    )
