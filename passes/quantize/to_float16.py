"""Stores and computes in float16 what fits into it.

    y = f(x, w)   becomes   float32(f(float16(x), float16(w)))

with a Cast only where the two types meet (`graphopt.passes.quantize.narrow_floats`). Half the bytes,
and on hardware with float16 arithmetic half the time; 11 bits of precision and no number above 65504:
nodes that meet larger ones on calibration data stay in float32, and so do those named in `keep`. Sums
inside an operator are not looked at: runtimes take them in float32. Not handled: subgraphs, operators
that the standard does not have in float16.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.data import load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.casts import convert
from graphopt.passes.quantize.narrow_floats import (
    FLOAT16,
    Narrow,
    Placement,
    is_wide,
    lost_weights,
    place,
)
from graphopt.passes.quantize.probe import largest_magnitude, probed


@dataclass(frozen=True)
class ToFloat16(Pass):
    """f(x, w) becomes float32(f(float16(x), float16(w))) where no number is beyond 65504."""

    name: ClassVar[str] = "to-float16"
    numerics: ClassVar[Changes] = Changes("computes in float16")
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "weights are to be rounded once, after everything was folded into them",
        "equalize": "it works on float32 weights",
        "absorb-bias": "it works on float32 weights",
    }

    data: Any = None  # images that show how large activations become: see graphopt.data
    preprocess: str = ""
    batch: int = 8
    limit: int = 64
    keep: str = ""  # nodes that stay in float32: names, operators or globs, separated by |
    io: str = "float32"  # the type of the model's inputs and outputs: float32 or the narrow one

    def run(self, graph: Graph, context: Context) -> None:
        narrow_graph(graph, context, FLOAT16, self)


def narrow_graph(graph: Graph, context: Context, kind: Narrow, options: Any) -> None:
    """What both `to-float16` and `to-bfloat16` do, with the options they share.

    Raises:
        UsageError: an `io` that is neither float32 nor the type, or a `keep` that matches nothing.
    """
    if options.io not in ("float32", kind.name):
        raise UsageError(f"io={options.io} is not one of float32, {kind.name}")
    keep = [k for k in options.keep.split("|") if k]
    peaks = _peaks(graph, options)
    narrow_io = options.io != "float32"
    found = place(graph, kind, keep=keep, peaks=peaks, narrow_io=narrow_io)
    for node, reason in found.kept:
        context.refused(node, reason)
    if not found.narrow:
        return
    if options.data is None:
        context.refused("graph", "activations were not checked for overflow: give data=FOLDER")
    total, subnormal, zero = lost_weights(graph, found, kind)
    casts = convert(graph, found, kind, narrow_io=narrow_io)
    context.rewrote("graph", _story(found, kind, casts, (total, subnormal, zero)))
    context.facts["narrowed"] = {
        "type": kind.name,
        "nodes": len(found.narrow),
        "kept": dict(Counter(node.op for node, _ in found.kept)),
        "casts": casts,
        "weights": {"all": total, "subnormal": subnormal, "zero": zero},
    }


def _peaks(graph: Graph, options: Any) -> dict[str, float]:
    """The largest magnitude of every float32 tensor on the data; nothing where there is none."""
    if options.data is None:
        return {}
    tensors = [*graph.inputs, *(t for n in graph.nodes for t in n.outputs)]
    names = list(dict.fromkeys(t.name for t in tensors if t.name and is_wide(t)))
    if not names:
        return {}
    feeds = load_data(
        options.data,
        graph,
        preprocess=options.preprocess,
        batch=options.batch,
        limit=options.limit,
    )
    largest = dict.fromkeys(names, 0.0)
    for found in probed(graph, [(name, largest_magnitude) for name in names], feeds):
        for name, value in zip(names, found, strict=True):
            # What is no number counts as too large.
            peak = float(value)
            largest[name] = max(largest[name], peak if peak == peak else float("inf"))
    return largest


def _story(found: Placement, kind: Narrow, casts: int, weights: tuple[int, int, int]) -> str:
    total, subnormal, zero = weights
    lost = f", {zero} become 0 and {subnormal} subnormal" if zero or subnormal else ""
    return f"{len(found.narrow)} nodes compute in {kind.name}, {casts} Casts; {total} weights{lost}"
