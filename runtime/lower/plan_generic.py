"""Plans operators without a kernel of ours: new shapes for the same values, or TVM's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Node, Tensor, label, static_shape
from graphopt.runtime.kernels.generic import Call, generic
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.program import Memory, Place


def plan_alias(lowering: Lowering, node: Node) -> None:
    lowering.alias(node.outputs[0], node.inputs[0])


# Operators that read where a tensor tells them to. TVM's functions do so unseen: a number from outside
# would make a compiled network read memory that is not its own.
_TOLD = {"GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1, "Scatter": 1}


def refuse_unseen_indices(node: Node) -> None:
    """Raises UnsupportedError for an operator that reads or writes where run time tells it to."""
    told = _TOLD.get(node.op)
    if told is not None and getattr(node.inputs[told], "values", None) is None:
        raise UnsupportedError(
            f"{node.op} {label(node)}: its indices are computed at run time, and nothing would keep "
            "them inside the data"
        )


def plan_constant(lowering: Lowering, node: Node) -> None:
    """A Constant node, which stands where a graph's output is known."""
    ((name, value),) = node.attrs.items()
    made = node.outputs[0]
    dtype = np.dtype(made.dtype)
    values = value.values if name == "value" else np.array(value, dtype)
    lowering.hold(made, np.asarray(values, dtype))


def plan_generic(lowering: Lowering, node: Node) -> None:
    refuse_unseen_indices(node)
    # First, for they refuse what has no fixed size.
    given = [lowering.plain(t) for t in computed_inputs(node)]
    made = [lowering.make_plain(t) for t in node.outputs]
    found = generic(model_of(lowering.graph.opset, node), f"{node.op} {label(node)}")
    numbers = [lowering.program.constant(values) for values in found.constants]
    memory: dict[int, Place] = {}

    def place(array: Any) -> Place:
        if array.kind == "memory":
            size = int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
            return memory.setdefault(array.index, Place(Memory(f"{label(node)} memory", size)))
        return {"input": given, "output": made, "constant": numbers}[array.kind][array.index]

    def emit() -> None:
        for call in found.calls:
            lowering.step(
                _Function(call),
                tuple(place(a) for a in call.arrays),
                1,
                label(node),
                ranged=False,
            )

    lowering.later(emit)


@dataclass(frozen=True, eq=False)
class _Function:
    """A function of TVM's."""

    call: Call

    def build(self, name: str) -> Any:  # noqa: ARG002
        """The function, whose symbol is set when it is compiled."""
        return self.call.function


def computed_inputs(node: Node) -> list[Tensor]:
    """What a node is given that is no constant, each once."""
    found: list[Tensor] = []
    for tensor in node.inputs:
        is_constant = getattr(tensor, "values", None) is not None
        if not tensor.is_empty() and not is_constant and not any(tensor is t for t in found):
            found.append(tensor)
    return found


def _held_inside(node: Node, inputs: list[Any]) -> list[gs.Node]:
    """Nodes that bring the indices of a Gather into the data, and `inputs` with what they make.

    ONNX Runtime refuses an index outside; a compiled network has no such error, and takes the nearest.
    """
    size = static_shape(node.inputs[0])[int(node.attrs.get("axis", 0))]  # type: ignore[index]
    dtype = np.dtype(node.inputs[1].dtype)
    last = inputs[1]
    made = []
    for op, bound in (("Max", -size), ("Min", size - 1)):
        out = gs.Variable(f"{last.name}_{op.lower()}", dtype, last.shape)
        limit = gs.Constant(f"{out.name}_bound", np.array(bound, dtype))
        made.append(gs.Node(op, out.name, {}, [last, limit], [out]))
        last = out
    inputs[1] = last
    return made


def model_of(opset: int, node: Node) -> onnx.ModelProto:
    """A model of one node, whose names C takes too; equal nodes have equal models."""

    def variable(tensor: Tensor, name: str) -> gs.Variable:
        if tensor.is_empty():
            return gs.Variable.empty()
        return gs.Variable(name, tensor.dtype, static_shape(tensor))

    computed = computed_inputs(node)
    copies = {id(t): variable(t, f"given{i}") for i, t in enumerate(computed)}
    copies.update({id(t): variable(t, f"made{i}") for i, t in enumerate(node.outputs)})
    inputs = [
        copies.get(id(t))
        or (gs.Variable.empty() if t.is_empty() else gs.Constant(f"constant{i}", t.values))
        for i, t in enumerate(node.inputs)
    ]
    nodes = []
    if node.op == "Gather" and id(node.inputs[1]) in copies:
        nodes = _held_inside(node, inputs)
    copy = gs.Node(node.op, "node", dict(node.attrs), inputs, [copies[id(t)] for t in node.outputs])
    copy.domain = node.domain
    graph = gs.Graph(
        [*nodes, copy],
        [copies[id(t)] for t in computed],
        [copies[id(t)] for t in node.outputs],
        opset=opset,
    )
    return gs.export_onnx(graph, do_type_check=False)
