"""Finds activations spelled as arithmetic and writes them as the operators they are.

    x * tanh(softplus(x)) == Mish(x)               x * clip(x + 3, 0, 6) / 6 == HardSwish(x)
    clip(x + 3, 0, 6) / 6 == HardSigmoid(x)        x/2 * (1 + erf(x / sqrt(2))) == Gelu(x)
    1 / (1 + exp(-x)) == Sigmoid(x)                max(x, a * x) == LeakyRelu(x), 0 < a < 1
    relu(x) - a * relu(-x) == PRelu(x, a)          where(x > 20, x, softplus(x)) == Softplus(x)

GELU by tanh too, and any order of sums and products. Constants have to be right to one part in a
million. Not handled: x * Sigmoid(x), which stays (ONNX
Runtime has a fast kernel for the pair and none for Swish), ln(1 + exp(x)), which overflows where
Softplus does not, and ReLU6, which `merge-clips` makes one Clip.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph, nodes_of, replace_uses
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.simplify.clipped_activations import hard_swish, leaky_relu, prelu
from graphopt.passes.simplify.smooth_activations import (
    gelu,
    gelu_tanh,
    mish,
    sigmoid,
    softplus,
    softplus_with_threshold,
)
from graphopt.passes.simplify.spelling import Found, Spelling

# The operator to start from, and the spellings around it; what another contains stands before it.
SPELLINGS: tuple[tuple[str, Spelling], ...] = (
    ("Erf", gelu),
    ("Tanh", gelu_tanh),
    ("Softplus", softplus_with_threshold),
    ("Tanh", mish),
    ("Clip", hard_swish),
    ("Min", hard_swish),
    ("Max", hard_swish),
    ("Relu", hard_swish),
    ("HardSigmoid", hard_swish),
    ("Exp", sigmoid),
    ("Max", leaky_relu),
    ("Relu", prelu),
    ("Log", softplus),
)


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
        reason = each.why_not(graph)
        if reason:
            refused = (each, reason)
        elif best is None or len(each.nodes) >= len(best.nodes):
            best = each
    return refused if best is None else (best, None)
