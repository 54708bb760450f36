"""Stores and computes in bfloat16, which has the range of float32 and 8 bits of precision.

    y = f(x, w)   becomes   float32(f(bfloat16(x), bfloat16(w)))

as `to-float16` does it (and with its code), but that nothing overflows. Before opset 22 convolutions,
pooling and some activations have no bfloat16: where only types changed in between, the model's opset is
raised to 22. Not handled: GroupNormalization before opset 21, whose meaning changed, and what has no
bfloat16 in the standard. ONNX Runtime has no kernels for it on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph
from graphopt.ir.opset import in_the_way, set_opset
from graphopt.pass_base import Changes, Context
from graphopt.passes.quantize.narrow_floats import BFLOAT16, is_wide
from graphopt.passes.quantize.to_float16 import ToFloat16, narrow_graph

_OPSET = 22


@dataclass(frozen=True)
class ToBfloat16(ToFloat16):
    """f(x, w) becomes float32(f(bfloat16(x), bfloat16(w))); the opset is raised to 22 for it."""

    name: ClassVar[str] = "to-bfloat16"
    numerics: ClassVar[Changes] = Changes("computes in bfloat16")

    def run(self, graph: Graph, context: Context) -> None:
        known = graph.opset
        if known < _OPSET and any(is_wide(t) for n in graph.nodes for t in n.outputs):
            node = in_the_way(graph, _OPSET)
            if node is None:
                set_opset(graph, _OPSET)
            else:
                context.refused(node, f"{node.op} means something else from opset 21 on")
        narrow_graph(graph, context, BFLOAT16, self)
        if not context.rewrites:
            set_opset(graph, known)
