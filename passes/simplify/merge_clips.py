"""Merges chains of Clip, Relu, Min and Max with constants, and removes those that do nothing.

    clip(clip(x, a, b), c, d) == clip(x, max(a, c), min(b, d))     relu(sigmoid(x)) == sigmoid(x)

(for overlapping ranges; otherwise the later one wins). ReLU6 written as Clip(Relu(x), 0, 6) or
Max(0, Min(x, 6)) becomes one Clip. Not handled: computed bounds, bounds per channel. What becomes
of NaN is not kept: these operators do not agree on it among themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Tensor,
    add_constant,
    add_node,
    is_op,
    nodes_of,
    producer,
    replace_uses,
    sole_reader,
)
from graphopt.pass_base import Context, Exact, Pass
from graphopt.passes.simplify.clips import CLIPPING, Clipping, clipping_of, combined

_RANGES = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
    "Abs": (0.0, math.inf),
}
# Their results are among their inputs. (Those of MaxPool are not: a window may be all padding.)
_SELECTING = ("GlobalMaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MergeClips(Pass):
    """clip(clip(x, a, b), c, d) == clip(x, max(a, c), min(b, d)); a clip that does nothing == x."""

    name: ClassVar[str] = "merge-clips"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *CLIPPING):
            clip = clipping_of(node.outputs[0])
            if clip is None:
                continue
            lo, hi = range_of(clip.source)
            if clip.lo <= lo and hi <= clip.hi:
                context.rewrote(node, f"removed: its input is within [{lo:g}, {hi:g}] already")
                replace_uses(graph, node.outputs[0], clip.source)
                continue
            inner = clipping_of(clip.source)
            if inner is None:
                continue
            if sole_reader(graph, clip.source) is None:
                context.refused(
                    node, f"the result of {inner.node.op} before it has a second reader"
                )
                continue
            context.rewrote(node, f"merged with {inner.node.op} {inner.node.name}")
            replace_uses(graph, node.outputs[0], one_clip(graph, [clip, inner]))


def range_of(tensor: Tensor) -> tuple[float, float]:
    """An interval every value of `tensor` is in."""
    node = producer(tensor)
    while node is not None and is_op(node, *_SELECTING):
        tensor = node.inputs[0]
        node = producer(tensor)
    if node is not None and is_op(node, *_RANGES):
        return _RANGES[node.op]
    clip = clipping_of(tensor)
    return (-math.inf, math.inf) if clip is None else (clip.lo, clip.hi)


def one_clip(graph: Graph, chain: list[Clipping]) -> Tensor:
    """Adds the one Clip (or Relu) that does what the chain does, and returns its result."""
    (lo, hi), source, out = combined(chain), chain[-1].source, chain[0].node.outputs[0]
    dtype = np.dtype(out.dtype)
    # ONNX Runtime has no Relu for most integers.
    if (lo, hi) == (0.0, math.inf) and dtype.kind == "f":
        return add_node(graph, "Relu", [source], like=out)
    bounds = [
        add_constant(graph, f"{out.name}_{name}", np.array(bound, dtype))
        if math.isfinite(bound)
        else None
        for name, bound in (("min", lo), ("max", hi))
    ]
    return add_node(graph, "Clip", [source, *bounds], like=out)
