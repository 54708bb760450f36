"""Computes several convolutions of one tensor as one, and splits the result.

    conv(x, w1), conv(x, w2) == split(conv(x, concat(w1, w2)))

Saves reading `x` again, starting a kernel, and the channels a kernel computes in blocks of 16 only to
throw them away; costs a Split. `benchmarks/sibling_convs.py` measures where that pays: up to 8 channels
each it was faster for every size tried (0.34 to 0.91 of the time), from 32 on mostly slower.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import Graph, Node, add_constant, input_of, nodes_of, set_input
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.linear import bias_of, out_channels, set_bias, why_not_scalable


@dataclass(frozen=True)
class MergeSiblingConvs(Pass):
    """conv(x, w1), conv(x, w2) == split(conv(x, concat(w1, w2))), for few channels each."""

    max_channels: int = 8

    name: ClassVar[str] = "merge-sibling-convs"
    numerics: ClassVar[Close] = Close(rtol=1e-5)
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "the BatchNormalizations behind the siblings would have to be merged too"
    }

    def run(self, graph: Graph, context: Context) -> None:
        for siblings in _families(graph):
            fitting = []
            for conv in siblings:
                reason = why_not_scalable(conv) or self._too_wide(conv)
                if reason:
                    context.refused(conv, reason)
                else:
                    fitting.append(conv)
            if len(fitting) > 1:
                _merge(graph, fitting)
                names = ", ".join(n.name for n in fitting[1:])
                context.rewrote(fitting[0], f"computes {names} as well")

    def _too_wide(self, conv: Node) -> str | None:
        channels = out_channels(conv)
        if channels <= self.max_channels:
            return None
        return f"it has {channels} channels; above {self.max_channels} a Split costs more than it saves"


def _families(graph: Graph) -> list[list[Node]]:
    """Ungrouped convolutions of one tensor with the same kernel and the same attributes."""
    families: dict[Any, list[Node]] = defaultdict(list)
    for conv in nodes_of(graph, "Conv"):
        weight = input_of(conv, 1)
        if weight is None or weight.shape is None or int(conv.attrs.get("group", 1)) != 1:
            continue
        attrs = repr(sorted(conv.attrs.items()))
        families[(id(conv.inputs[0]), tuple(weight.shape[1:]), attrs)].append(conv)
    return [f for f in families.values() if len(f) > 1]


def _merge(graph: Graph, siblings: list[Node]) -> None:
    first = siblings[0]
    sizes = [out_channels(n) for n in siblings]
    weight = np.concatenate([n.inputs[1].values for n in siblings])
    bias = np.concatenate([bias_of(n) for n in siblings])
    has_bias = any(input_of(n, 2) is not None for n in siblings)
    outputs = [n.outputs[0] for n in siblings]
    whole = gs.Variable(graph.fresh_name(f"{outputs[0].name}_siblings"), outputs[0].dtype)
    shape = outputs[0].shape
    whole.shape = None if shape is None else [shape[0], int(sum(sizes)), *shape[2:]]
    for node in siblings:
        node.outputs.clear()
        if node is not first:
            node.inputs.clear()
    first.outputs.append(whole)
    set_input(first, 1, add_constant(graph, f"{first.inputs[1].name}_siblings", weight))
    if has_bias:
        set_bias(graph, first, bias)
    split = add_constant(graph, f"{whole.name}_sizes", np.array(sizes, np.int64))
    name = graph.fresh_name(f"{whole.name}_split")
    graph.nodes.append(gs.Node("Split", name, {"axis": 1}, [whole, split], outputs))
