"""QuantizeLinear/DequantizeLinear pairs in a graph: put in, and found again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    Variable,
    add_constant,
    input_of,
    input_value,
    nodes_of,
    produced_by,
    replace_uses,
)
from graphopt.passes.quantize.grid import KINDS, Grid

Array = np.ndarray[Any, Any]

# The operators that make a model a quantized one.
QUANTIZED_OPS = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv"),
    *("QLinearMatMul", "ConvInteger", "MatMulInteger"),
)


@dataclass(frozen=True)
class GridTensors:
    """The constants that say what a grid is; pairs on one grid share them."""

    scale: Tensor
    zero: Tensor
    axis: int | None


def add_grid(graph: Graph, base: str, grid: Grid) -> GridTensors:
    """The constants of a grid, named after the tensor it is for."""
    scale = add_constant(graph, f"{base}_scale", grid.scale)
    zero = add_constant(graph, f"{base}_zero_point", grid.zero.astype(grid.kind.dtype))
    return GridTensors(scale, zero, grid.axis)


def add_pair(
    graph: Graph, tensor: Tensor, tensors: GridTensors, readers: Iterable[Node] | None
) -> tuple[Node, Node]:
    """Rounds a tensor to a grid for some of its readers, or (None) for everyone and as an output.

    Returns:
        The QuantizeLinear and the DequantizeLinear node.
    """
    attrs = {} if tensors.axis is None else {"axis": tensors.axis}
    shape = None if tensor.shape is None else list(tensor.shape)
    whole = Variable(graph.fresh_name(f"{tensor.name}_q"), tensors.zero.dtype, shape)
    real = Variable(graph.fresh_name(f"{tensor.name}_dq"), tensor.dtype, shape)
    quantize = _node(graph, "QuantizeLinear", attrs, tensor, tensors, whole)
    dequantize = _node(graph, "DequantizeLinear", attrs, whole, tensors, real)
    if readers is None:
        replace_uses(graph, tensor, real, but=quantize)
    else:
        for reader in readers:
            for i, read in enumerate(reader.inputs):
                if read is tensor:
                    reader.inputs[i] = real
    return quantize, dequantize


def _node(
    graph: Graph, op: str, attrs: dict[str, int], source: Tensor, grid: GridTensors, made: Tensor
) -> Node:
    name = graph.fresh_name(f"{made.name}_{'Q' if op == 'QuantizeLinear' else 'DQ'}")
    node = gs.Node(op, name, dict(attrs), [source, grid.scale, grid.zero], [made])
    graph.nodes.append(node)
    return node


# --- asking ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and the DequantizeLinear that reads it."""

    quantize: Node
    dequantize: Node

    @property
    def source(self) -> Tensor:
        """What is rounded."""
        return self.quantize.inputs[0]

    @property
    def result(self) -> Tensor:
        """It, rounded."""
        return self.dequantize.outputs[0]

    @property
    def is_weight(self) -> bool:
        """Whether a constant is rounded."""
        return isinstance(self.source, Constant)

    @property
    def grid(self) -> Grid:
        """The grid it is rounded to."""
        return grid_of(self.quantize)


def pairs(graph: Graph) -> Iterator[Pair]:
    """Every pair of the graph, in order."""
    for dequantize in nodes_of(graph, "DequantizeLinear"):
        quantize = produced_by(dequantize.inputs[0], "QuantizeLinear")
        if quantize is not None:
            yield Pair(quantize, dequantize)


def grid_of(node: Node) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear with constant scale and zero point."""
    scale, zero = node.inputs[1].values, input_value(node, 2)
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
    axis = int(node.attrs.get("axis", 1)) if scale.ndim else None
    kind = KINDS[np.dtype(zero.dtype).name]
    # Weights are the tensors with a scale per channel or a zero point of 0 on a constant.
    constant = isinstance(node.inputs[0], Constant)
    narrow = constant and kind.signed and not zero.any()
    return Grid(kind, scale, zero.astype(np.int64), axis, narrow)


def rounded_input(node: Node, index: int) -> Pair | None:
    """The pair whose result is input `index` of a node, or None."""
    dequantize = produced_by(input_of(node, index), "DequantizeLinear")
    quantize = produced_by(dequantize.inputs[0], "QuantizeLinear") if dequantize else None
    return Pair(quantize, dequantize) if quantize is not None else None
