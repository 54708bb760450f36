"""Plans operators without a kernel of ours for a GPU, by TVM's importer and its schedules."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Node, label
from graphopt.runtime.gpu.generic import generic, launches
from graphopt.runtime.gpu.lowering import GpuLowering
from graphopt.runtime.lower.plan_generic import computed_inputs, model_of, refuse_unseen_indices
from graphopt.runtime.lower.program import Memory, Place


def plan_generic(lowering: GpuLowering, node: Node) -> None:
    """The kernels of one node; its tensors are plain.

    Raises:
        UnsupportedError: TVM cannot do it; says the operator and the node.
    """
    where = f"{node.op} {label(node)}"
    refuse_unseen_indices(node)
    found = generic(model_of(lowering.graph.opset, node), where)
    made_of = [(call, launches(call, where)) for call in found.calls]
    given = [lowering.plain(t) for t in computed_inputs(node)]
    made = [lowering.make_plain(t) for t in node.outputs]
    numbers = [lowering.program.constant(values) for values in found.constants]
    memory: dict[int, Place] = {}

    def place(array: Any) -> Place:
        if array.kind == "memory":
            size = int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
            return memory.setdefault(array.index, Place(Memory(f"{label(node)} memory", size)))
        return {"input": given, "output": made, "constant": numbers}[array.kind][array.index]

    def emit() -> None:
        for call, parts in made_of:
            places = [place(a) for a in call.arrays]
            for part in parts:
                lowering.step(part.kernel, tuple(places[i] for i in part.arrays), label(node))

    lowering.later(emit)
