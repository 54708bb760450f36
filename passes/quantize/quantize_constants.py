"""Stores rounded weights as the integers they are rounded to, and biases as 32-bit integers.

    dequantize(quantize(w)) == dequantize(w_q),   w_q = quantize(w)              exactly
    b ~ dequantize(b_q),   b_q = round(b / (s_x s_w))                            within s_x s_w / 2

A bias is added to sums of products of integers, so its grid is theirs: s_x s_w per channel. It is
rounded once per place of use, because s_x differs between places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import (
    Graph,
    Node,
    Variable,
    add_constant,
    input_value,
    is_op,
    nodes_of,
)
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.grid import Grid
from graphopt.passes.quantize.pairs import Pair, pairs, rounded_input

_INT32 = 2**31 - 1


@dataclass(frozen=True)
class QuantizeConstants(Pass):
    """dequantize(quantize(w)) == dequantize(w_q); b ~ s_x s_w b_q: integers take the place of floats.

    Not handled: biases of products whose weight or input is not rounded; they stay in float.
    """

    name: ClassVar[str] = "quantize-constants"
    numerics: ClassVar[Changes] = Changes("rounds biases to 32-bit integers")
    after: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "it stores what that pass rounds",
        "simplify": "it would compute stored weights back to float",
    }

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, "Conv", "ConvTranspose", "Gemm"):
            if reason := _store_bias(graph, node):
                context.refused(node, reason)
        stored: dict[int, Pair] = {}
        for pair in list(pairs(graph)):
            if pair.is_weight:
                stored[id(pair.quantize)] = pair
        for pair in stored.values():
            _store_weight(graph, pair)
            context.rewrote(pair.source.name, f"stored as {pair.grid.kind.name}")


def _store_weight(graph: Graph, pair: Pair) -> None:
    whole = add_constant(graph, f"{pair.source.name}_int", pair.grid.quantize(pair.source.values))
    made = pair.quantize.outputs[0]
    for reader in list(made.outputs):
        # A zero point of 0 is what is meant when it is left out, but ONNX Runtime up to 1.23 does not know
        # that of a Gemm's weight with a scale per column ("QGemm: zero point and scale of input b ...").
        stays = any(is_op(product, "Gemm") for product in reader.outputs[0].outputs)
        reader.inputs = [whole, *reader.inputs[1 : 3 if stays else 2]]


def _store_bias(graph: Graph, node: Node) -> str | None:
    """The reason the bias stays in float, or None."""
    bias = input_value(node, 2)
    if bias is None:
        return None
    activation, weight = rounded_input(node, 0), rounded_input(node, 1)
    if weight is None or not weight.is_weight or activation is None:
        return None if weight is None else "its input is not rounded, so its bias has no grid"
    scale = bias_scale(activation.grid, weight.grid, bias)
    steps = np.rint(bias.reshape(-1).astype(np.float64) / scale)
    if not np.isfinite(steps).all() or np.abs(steps).max(initial=0) > _INT32:
        return "its bias does not fit into 32 bits on the grid of its products"
    base = f"{node.inputs[2].name}_{node.name}" if len(node.inputs[2].outputs) > 1 else None
    name = base or node.inputs[2].name
    flat = steps.astype(np.int32)
    whole = add_constant(graph, f"{name}_int", flat)
    step = add_constant(graph, f"{name}_scale", scale.astype(np.float32))
    real = Variable(graph.fresh_name(f"{name}_dq"), np.dtype(np.float32), [flat.size])
    made = gs.Node(
        "DequantizeLinear", graph.fresh_name(f"{real.name}_DQ"), {"axis": 0}, [whole, step], [real]
    )
    graph.nodes.append(made)
    node.inputs[2] = real
    return None


def bias_scale(activation: Grid, weight: Grid, bias: Any) -> Any:
    """s_x * s_w in float32, one per element of the bias."""
    product = activation.scale.astype(np.float32) * weight.scale.astype(np.float32)
    return np.broadcast_to(np.asarray(product, np.float32).reshape(-1), (bias.size,))
