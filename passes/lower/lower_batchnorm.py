"""Spells a BatchNormalization that no convolution took in as what is computed for it.

    batchnorm(x) == x * s + t,   s = gamma / sqrt(var + eps),   t = beta - mean * s

Both are one value per channel. Kernels compute them where x is made. Not handled: training mode, and
statistics computed at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import Graph, add_constant, add_node, nodes_of, rank_of, replace_uses
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.affine import bn_affine, why_not_affine


@dataclass(frozen=True)
class LowerBatchnorm(Pass):
    """batchnorm(x) == x * s + t, s and t constant per channel."""

    name: ClassVar[str] = "lower-batchnorm"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "BatchNormalization"):
            rank = rank_of(node.inputs[0])
            reason = why_not_affine(node) or (
                None if rank else "the rank of its input is not known"
            )
            if reason or rank is None:
                context.refused(node, str(reason))
                continue
            out = node.outputs[0]
            shape = (-1, *[1] * (rank - 2))
            tensor = node.inputs[0]
            for op, values in zip(("Mul", "Add"), bn_affine(node), strict=True):
                constant = values.reshape(shape).astype(np.dtype(out.dtype))
                name = f"{out.name}_{'scale' if op == 'Mul' else 'shift'}"
                tensor = add_node(
                    graph, op, [tensor, add_constant(graph, name, constant)], like=out
                )
            replace_uses(graph, out, tensor)
            context.rewrote(node, "a product and a sum per channel")
