"""Finds activations spelled as arithmetic and writes them as the operators they are.

    x * tanh(softplus(x)) == Mish(x)               x * clip(x + 3, 0, 6) / 6 == HardSwish(x)
    clip(x + 3, 0, 6) / 6 == HardSigmoid(x)        x/2 * (1 + erf(x / sqrt(2))) == Gelu(x)
    1 / (1 + exp(-x)) == Sigmoid(x)                max(x, a * x) == LeakyRelu(x), 0 < a < 1
    relu(x) - a * relu(-x) == PRelu(x, a)          (GELU by tanh too; any order of + and *)

Constants have to be right to one part in a million. Not handled: x * Sigmoid(x), which stays (ONNX
Runtime has a fast kernel for the pair and none for Swish), ln(1 + exp(x)), which overflows where
Softplus does not, and ReLU6, which `merge-clips` makes one Clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph, nodes_of, replace_uses
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.activations import SPELLINGS, Found
from graphopt.passes.simplify.region import why_not_closed

_FLOATS = ("float32", "float64")


@dataclass(frozen=True)
class RecomposeActivations(Pass):
    """Arithmetic that spells Mish, HardSwish, GELU, Sigmoid or PRelu == that operator."""

    name: ClassVar[str] = "recompose-activations"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for op, spelling in SPELLINGS:
            for node in nodes_of(graph, op):
                found, reason = largest(graph, spelling(node))
                if found is None:
                    continue
                if reason:
                    context.refused(node, f"not written as {found.op}: {reason}")
                    continue
                what = f"{len({id(n) for n in found.nodes})} nodes are one {found.op}"
                replace_uses(graph, found.root, found.write(graph))
                context.rewrote(node, what)


def largest(graph: Graph, candidates: Iterable[Found]) -> tuple[Found | None, str | None]:
    """The candidate that replaces the most nodes, or one that cannot be replaced and why."""
    best: Found | None = None
    refused: tuple[Found | None, str | None] = (None, None)
    for each in candidates:
        reason = why_not_replaceable(graph, each)
        if reason:
            refused = (each, reason)
        elif best is None or len(each.nodes) >= len(best.nodes):
            best = each
    return refused if best is None else (best, None)


def why_not_replaceable(graph: Graph, found: Found) -> str | None:
    """The reason the nodes of a candidate have to stay, or None."""
    if found.flaw:
        return found.flaw
    if str(found.root.dtype) not in _FLOATS:
        return f"in {found.root.dtype} the steps round differently from the operator"
    return why_not_closed(graph, found.nodes, found.root)
