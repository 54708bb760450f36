"""Products of matrices of many rows as 1x1 convolutions: a row is a pixel, its elements are channels.

    (x W)[r, m] == conv(x', W')[0, m, 0, r],   x' (1, K, 1, R), W' (M, K, 1, 1)

So tokens of attention, and images with their channels last, get the kernels of convolutions. Between two
such products elementwise operators and roundings work on the pixels; everything else reads rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_of,
    input_value,
    is_op,
    produced_by,
    replace_uses,
    static_shape,
    sweep,
)
from graphopt.runtime.lower.fuse import BINARY, ELEMENTWISE, attributes
from graphopt.runtime.lower.quantized import rounded
from graphopt.runtime.lower.vectors import (
    Shape,
    is_integer_weight,
    is_plain,
    matrix_as_filters,
    output_axis,
    reshaped,
)

# Movements between rows and pixels (`CpuLayout`).
TO_PIXELS, TO_ROWS = (0, 3, 1, 2), (0, 2, 3, 1)


def rows_to_pixels(graph: Graph) -> None:
    """Rewrites every product of more than one row with a constant matrix, and what is between them."""
    _Rewriter(graph).run()


class _Rewriter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # By the id of a tensor of rows: itself, the same as an image, and whether a product made it.
        self._images: dict[int, tuple[Tensor, Tensor, bool]] = {}

    def run(self) -> None:
        for node in list(self._graph.nodes):
            if self._is_product(node):
                self._product(node)
            elif self._goes_along(node):
                self._elementwise(node)
        if self._images:
            sweep(self._graph)

    def _is_product(self, node: Node) -> bool:
        """Whether a node multiplies rows, of numbers or roundings, by a matrix that is known now."""
        if not is_op(node, "MatMul", "Gemm"):
            return False
        shape, made = static_shape(node.inputs[0]), static_shape(node.outputs[0])
        if shape is None or made is None or len(shape) < 2 or math.prod(shape[:-1]) < 2:
            return False
        bias = input_of(node, 2)
        if not is_plain(node) or (bias is not None and not _is_vector(bias, made[-1])):
            return False
        weight = input_value(node, 1)
        if weight is None:
            _, image, _ = self._images.get(id(node.inputs[0]), (None, node.inputs[0], False))
            return is_integer_weight(node) and _rounded_at_once(image) is not None
        is_number = weight.dtype == np.float32 and np.dtype(node.inputs[0].dtype) == np.float32
        return weight.ndim == 2 and is_number and not isinstance(node.inputs[0], Constant)

    def _product(self, node: Node) -> None:
        image = self._image(node.inputs[0])
        weight = _filters(self._graph, node)
        bias = [] if input_of(node, 2) is None else [_vector(self._graph, node)]
        made = add_node(
            self._graph,
            "Conv",
            [image, weight, *bias],
            like=node.outputs[0],
            shape=_image_shape(static_shape(node.outputs[0])),
        )
        name, node.name = node.name, ""
        made.inputs[0].name = name
        self._replace(node.outputs[0], made)

    def _elementwise(self, node: Node) -> None:
        out = node.outputs[0]
        given = [self._operand(t, static_shape(out) or ()) for t in node.inputs]
        made = add_node(
            self._graph,
            node.op,
            given,
            like=out,
            attrs=dict(node.attrs),
            shape=_image_shape(static_shape(out)),
        )
        self._replace(out, made)

    def _goes_along(self, node: Node) -> bool:
        """Whether all a node computes with are pixels already, and numbers known now."""
        shape = static_shape(node.outputs[0]) if len(node.outputs) == 1 else None
        computed = [t for t in node.inputs if not t.is_empty() and not isinstance(t, Constant)]
        if shape is None or not computed:
            return False
        known = [self._images.get(id(t)) for t in computed]
        if any(k is None or not k[2] or static_shape(k[0]) != shape for k in known):
            return False
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            return all(t.is_empty() or t.values.size == 1 for t in node.inputs[1:])
        if not is_op(node, *ELEMENTWISE) or attributes(node) is None:
            return False
        constants = (t for t in node.inputs if isinstance(t, Constant))
        return all(_fits(t, shape[-1], alone=node.op not in BINARY) for t in constants)

    def _operand(self, tensor: Tensor, shape: Shape) -> Tensor | None:
        if tensor.is_empty():
            return None
        if not isinstance(tensor, Constant):
            return self._images[id(tensor)][1]
        if tensor.values.size == 1:
            return tensor
        values = tensor.values.reshape(1, shape[-1], 1, 1)
        return add_constant(self._graph, f"{tensor.name}_channels", values)

    def _image(self, rows: Tensor) -> Tensor:
        """A tensor of rows as an image; roundings stay between it and its reader."""
        if id(rows) in self._images:
            return self._images[id(rows)][1]
        shape = _image_shape(static_shape(rows))
        pair = _rounded_at_once(rows)
        if pair is None:
            flat = reshaped(self._graph, rows, (1, 1, shape[3], shape[1]))
            image = _turned(self._graph, flat, TO_PIXELS, shape)
        else:
            image = self._image(pair[0].inputs[0])
            for node in pair:
                given = [image, *node.inputs[1:]]
                like = node.outputs[0]
                image = add_node(self._graph, node.op, given, like=like, shape=shape)
        self._images[id(rows)] = rows, image, False
        return image

    def _replace(self, out: Tensor, image: Tensor) -> None:
        """What reads rows reads them of the image."""
        shape = static_shape(image) or ()
        pixels = _turned(self._graph, image, TO_ROWS, (1, 1, shape[3], shape[1]))
        rows = reshaped(self._graph, pixels, static_shape(out) or ())
        self._images[id(rows)] = rows, image, True
        replace_uses(self._graph, out, rows)


def _is_vector(bias: Tensor, length: int) -> bool:
    """Whether this is one value per column that is known now, a number or an integer."""
    is_known = isinstance(bias, Constant) or produced_by(bias, "DequantizeLinear") is not None
    shape = static_shape(bias)
    return is_known and shape is not None and shape[-1:] == (length,) == (math.prod(shape),)


def _rounded_at_once(tensor: Tensor) -> tuple[Node, Node] | None:
    """What a tensor is rounded by, where that has one scale."""
    pair = rounded(tensor)
    if pair is None or np.dtype(pair[0].inputs[0].dtype) != np.float32:
        return None
    numbers = [input_value(n, i) for n in pair for i in range(1, len(n.inputs))]
    return pair if all(v is not None and v.size == 1 for v in numbers) else None


def _filters(graph: Graph, node: Node) -> Tensor:
    values = input_value(node, 1)
    if values is None:
        depth = (static_shape(node.inputs[0]) or ())[-1]
        return matrix_as_filters(graph, node, (depth, 1, 1))
    filters = np.moveaxis(values, output_axis(node), 0)[:, :, None, None]
    return add_constant(graph, f"{node.inputs[1].name}_filters", filters)


def _vector(graph: Graph, node: Node) -> Tensor:
    """The bias of a Gemm, as a vector."""
    values = input_value(node, 2)
    if values is None:
        return node.inputs[2]
    return add_constant(graph, f"{node.inputs[2].name}_vector", values.reshape(-1))


def _fits(constant: Constant, channels: int, *, alone: bool) -> bool:
    """Whether a constant is one number or, beside pixels, one number per channel."""
    shape = constant.values.shape
    by_channel = constant.values.size == channels and shape[-1:] == (channels,)
    return constant.values.size == 1 or (by_channel and not alone)


def _turned(graph: Graph, tensor: Tensor, order: Sequence[int], shape: Shape) -> Tensor:
    attrs = {"perm": list(order)}
    made = add_node(graph, "Transpose", [tensor], like=tensor, attrs=attrs, shape=shape)
    # Profiles of layers show it.
    what = "pixels" if order == TO_PIXELS else "rows"
    made.inputs[0].name = graph.fresh_name(f"{tensor.name} to {what}")
    return made


def _image_shape(rows: Shape | None) -> Shape:
    assert rows is not None
    return 1, rows[-1], 1, math.prod(rows[:-1])
