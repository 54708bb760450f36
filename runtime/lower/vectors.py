"""Dense layers of integers as convolutions: their vectors are images of one pixel, kept in bytes.

    x W + b == conv(x', W'),   x' (1, K, 1, 1), W' (M, K, 1, 1)
    flatten(x) W + b == conv(x, W'),   x (1, C, H, W), W' (M, C, H, W)

So they get the kernels of convolutions and everything around them: roundings before and behind, and
elementwise operators between. What reads vectors elsewhere reads them as before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_of,
    input_value,
    is_op,
    nodes_of,
    produced_by,
    replace_uses,
    sole_reader,
    static_shape,
    sweep,
)
from graphopt.runtime.lower.fuse import UNARY
from graphopt.runtime.lower.quantized import rounded

Shape = tuple[int, ...]
# What comes before a vector and may be taken over by the image it was made of.
_FLATTENS = ("Flatten", "Reshape", "Squeeze")


def vectors_to_images(graph: Graph) -> None:
    """Rewrites every dense layer of integers whose input is one vector."""
    for node in list(nodes_of(graph, "Gemm", "MatMul")):
        if not _is_dense(node):
            continue
        image, source = _rounded_image(node.inputs[0]), rounded(node.inputs[0])
        if image is not None:
            _rewrite(graph, node, image)
        elif source is not None:
            _rewrite(graph, node, _image_of(graph, *source))
    sweep(graph)


def _rounded_image(tensor: Tensor) -> Tensor | None:
    """The image a vector is flattened of, where that is rounded: a layer before may have made it one."""
    flat = produced_by(tensor, *_FLATTENS)
    if flat is None or rounded(flat.inputs[0]) is None:
        return None
    shape = static_shape(flat.inputs[0])
    return flat.inputs[0] if shape is not None and len(shape) == 4 and shape[0] == 1 else None


def _is_dense(node: Node) -> bool:
    shape, made = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if shape is None or made is None or len(shape) != 2 or shape[0] != 1:
        return False
    return is_plain(node) and is_integer_weight(node) and _has_bias(node)


def is_plain(node: Node) -> bool:
    """Whether a MatMul or Gemm is x W, or x W^T, plus a bias: nothing scaled, x as it is."""
    usual = (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    return all(node.attrs.get(name, value) == value for name, value in usual)


def is_integer_weight(node: Node) -> bool:
    """Whether a product's matrix is known now, and integers with scales by its columns."""
    back = produced_by(node.inputs[1], "DequantizeLinear")
    weight = None if back is None else input_value(back, 0)
    if weight is None or weight.dtype != np.int8 or weight.ndim != 2:
        return False
    scale, zero = input_value(back, 1), input_value(back, 2)
    axis = int(back.attrs.get("axis", 1)) % 2
    is_signed = zero is None or not zero.any()
    is_by_output = scale is not None and (scale.size == 1 or axis == output_axis(node))
    return is_signed and is_by_output and not back.attrs.get("block_size")


def _has_bias(node: Node) -> bool:
    """Whether a layer's bias is a vector, of numbers or integers, or none."""
    tensor = input_of(node, 2)
    return tensor is None or (static_shape(tensor) or (0, 0))[-1:] == static_shape(tensor)


def output_axis(node: Node) -> int:
    """The axis of a product's matrix that its columns lie along."""
    return 0 if node.op == "Gemm" and node.attrs.get("transB", 0) else 1


def _rewrite(graph: Graph, node: Node, image: Tensor) -> None:
    out = node.outputs[0]
    channels, height, width = (static_shape(image) or (0, 0, 0, 0))[1:]
    weight = matrix_as_filters(graph, node, (channels, height, width))
    given = [image, weight, *([] if input_of(node, 2) is None else [node.inputs[2]])]
    count = (static_shape(out) or (0, 0))[1]
    made = add_node(graph, "Conv", given, like=out, shape=(1, count, 1, 1))
    name, node.name = node.name, ""
    made.inputs[0].name = name
    _flattened_late(graph, out, made)


def _image_of(graph: Graph, quantize: Node, back: Node) -> Tensor:
    """The rounded vector as an image: of one pixel, or the one it was flattened of."""
    vector = quantize.inputs[0]
    flat = produced_by(vector, *_FLATTENS)
    before = None if flat is None else flat.inputs[0]
    shape = static_shape(before)
    if shape is None or len(shape) != 4 or shape[0] != 1:
        length = (static_shape(vector) or (0, 0))[1]
        before = reshaped(graph, vector, (1, length, 1, 1))
        shape = (1, length, 1, 1)
    stored = add_node(
        graph,
        "QuantizeLinear",
        [before, *quantize.inputs[1:]],
        like=quantize.outputs[0],
        shape=shape,
    )
    return add_node(
        graph, "DequantizeLinear", [stored, *back.inputs[1:]], like=back.outputs[0], shape=shape
    )


def reshaped(graph: Graph, tensor: Tensor, shape: Shape) -> Tensor:
    """A tensor in another shape."""
    wanted = add_constant(graph, f"{tensor.name}_shape", np.array(shape, np.int64))
    return add_node(graph, "Reshape", [tensor, wanted], like=tensor, shape=shape)


def matrix_as_filters(graph: Graph, node: Node, window: Shape) -> Tensor:
    """A matrix of integers as the filters of a convolution, with its scales along the first axis."""
    back = produced_by(node.inputs[1], "DequantizeLinear")
    values = input_value(back, 0)
    assert values is not None
    filters = np.moveaxis(values, output_axis(node), 0).reshape(-1, *window)
    parts: list[Any] = [add_constant(graph, f"{node.inputs[1].name}_filters", filters)]
    return add_node(
        graph,
        "DequantizeLinear",
        [*parts, *back.inputs[1:]],
        like=node.inputs[1],
        attrs={"axis": 0},
        shape=filters.shape,
    )


def _flattened_late(graph: Graph, vector: Tensor, image: Tensor) -> None:
    """Readers of a vector read an image instead, as far as they do the same with one."""
    while True:
        reader = sole_reader(graph, vector)
        if reader is None or not _goes_along(reader) or reader.inputs[0] is not vector:
            break
        given = [image, *reader.inputs[1:]]
        after = reader.outputs[0]
        shape = static_shape(image)
        image = add_node(graph, reader.op, given, like=after, attrs=dict(reader.attrs), shape=shape)
        vector = after
    flat = reshaped(graph, image, static_shape(vector) or ())
    replace_uses(graph, vector, flat)


def _goes_along(node: Node) -> bool:
    if is_op(node, "QuantizeLinear", "DequantizeLinear"):
        scale = input_value(node, 1)
        return scale is not None and scale.size == 1
    return is_op(node, *UNARY)
