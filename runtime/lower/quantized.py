"""What a graph says about integers: grids of tensors, and products whose operands all are integers.

A tensor between a QuantizeLinear and its DequantizeLinears is stored as integers; whoever reads or
writes it converts in registers. Weights and biases behind a DequantizeLinear are constants: a product
that reads integers takes them as they are, everything else as the numbers they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    input_of,
    input_value,
    is_op,
    nodes_of,
    produced_by,
    replace_uses,
    sweep,
)
from graphopt.runtime.kernels.grid import LIMITS, Grid
from graphopt.runtime.lower.groups import groups_of

Values = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Product:
    """The integers of a product.

    Attributes:
        weight: int8, the zero point is 0; output channels come first.
        scale: of the weight, one per output channel, in float32.
        bias: int32, counted in steps of the grid of the products; None where that has to be
            computed from `offsets`.
        offsets: the bias as numbers.
    """

    weight: Values
    scale: Values
    bias: Values | None
    offsets: Values

    def steps(self, source: float) -> Values:
        """The bias in steps of the products of a source with this scale."""
        if self.bias is not None:
            return self.bias.astype(np.int64)
        unit = self.scale.astype(np.float64) * source
        return np.rint(self.offsets.astype(np.float64) / unit).astype(np.int64)


def has_integers(graph: Graph) -> bool:
    """Whether anything in the graph is quantized."""
    return any(True for _ in nodes_of(graph, "QuantizeLinear", "DequantizeLinear"))


def grid_of(node: Node) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear of 8 bits for a whole tensor, or None."""
    scale, zero = input_value(node, 1), input_value(node, 2)
    if scale is None or scale.size != 1 or zero is None or str(zero.dtype) not in LIMITS:
        return None
    dtype = str(zero.dtype)
    return Grid(dtype, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), *LIMITS[dtype])


def rounded(tensor: Tensor) -> tuple[Node, Node] | None:
    """The QuantizeLinear and the DequantizeLinear a tensor comes from, or None."""
    back = produced_by(tensor, "DequantizeLinear")
    node = None if back is None else produced_by(back.inputs[0], "QuantizeLinear")
    return None if node is None else (node, back)


def rounding_of(tensor: Tensor) -> Node | None:
    """The QuantizeLinear behind a DequantizeLinear that reads the same grid, else None."""
    node, back = rounded(tensor) or (None, None)
    if node is None or grid_of(node) is None or grid_of(node) != grid_of(back):
        return None
    return node


def is_rounding(graph: Graph, node: Node) -> bool:
    """Whether the integers a QuantizeLinear makes are only read as the numbers they stand for."""
    made = node.outputs[0]
    if grid_of(node) is None or not made.outputs or any(t is made for t in graph.outputs):
        return False
    return all(
        is_op(r, "DequantizeLinear") and rounding_of(r.outputs[0]) is node for r in made.outputs
    )


def take_products(graph: Graph) -> dict[int, Product]:
    """The integers of every product that reads some, by the node's id; constants become numbers."""
    products = {}
    for node in nodes_of(graph, "Conv", "ConvTranspose"):
        found = _product(node)
        if found is not None:
            products[id(node)] = found
    for node in list(nodes_of(graph, "DequantizeLinear")):
        values = _constant(node)
        if values is not None:
            made = node.outputs[0]
            replace_uses(graph, made, add_constant(graph, f"{made.name}_values", values))
    sweep(graph)
    return products


def _product(node: Node) -> Product | None:
    if rounding_of(node.inputs[0]) is None:
        return None
    back = produced_by(node.inputs[1], "DequantizeLinear")
    weight = None if back is None else input_value(back, 0)
    if weight is None or weight.dtype != np.int8 or np.any(_zero(back)):
        return None
    if is_op(node, "ConvTranspose") and groups_of(node) != 1:
        return None
    axis = _output_axis(node)
    count, scale = weight.shape[axis], input_value(back, 1)
    if scale is None or scale.size not in (1, count):
        return None
    if scale.size > 1 and int(back.attrs.get("axis", 1)) % weight.ndim != axis:
        return None
    weight = np.moveaxis(weight, axis, 0)
    full = np.broadcast_to(scale.reshape(-1), (count,)).astype(np.float32)
    return _with_bias(node, weight, full)


def _output_axis(node: Node) -> int:
    """The axis of a product's output channels in its weight."""
    return 1 if is_op(node, "ConvTranspose") else 0


def _with_bias(node: Node, weight: Values, scale: Values) -> Product | None:
    tensor = input_of(node, 2)
    none = np.zeros(len(weight), np.float32)
    if tensor is None:
        return Product(weight, scale, np.zeros(len(weight), np.int32), none)
    given = input_value(node, 2)
    if given is not None:
        return (
            Product(weight, scale, None, given.reshape(-1)) if given.size == len(weight) else None
        )
    back = produced_by(tensor, "DequantizeLinear")
    steps = None if back is None else input_value(back, 0)
    if steps is None or steps.dtype != np.int32 or steps.size != len(weight) or np.any(_zero(back)):
        return None
    unit = input_value(back, 1)
    source = grid_of(rounding_of(node.inputs[0]))
    assert source is not None
    if unit is None or not np.allclose(unit, scale * np.float32(source.scale), rtol=1e-5, atol=0):
        numbers = _constant(back)
        return None if numbers is None else Product(weight, scale, None, numbers.reshape(-1))
    return Product(weight, scale, steps.reshape(-1), none)


def _zero(node: Node) -> Values:
    zero = input_value(node, 2)
    return np.zeros(1) if zero is None else zero


def _constant(node: Node) -> Values | None:
    """What a DequantizeLinear makes of constants, or None."""
    steps, scale = input_value(node, 0), input_value(node, 1)
    if steps is None or scale is None or node.attrs.get("block_size", 0):
        return None
    zero, axis = _zero(node), int(node.attrs.get("axis", 1))
    shape = [1] * steps.ndim
    if scale.size > 1:
        shape[axis % steps.ndim] = -1
    wide = steps.astype(np.int64) - zero.astype(np.int64).reshape(shape if zero.size > 1 else [])
    factors = scale.reshape(shape if scale.size > 1 else [])
    return np.asarray(wide.astype(np.float32) * factors, np.float32)
