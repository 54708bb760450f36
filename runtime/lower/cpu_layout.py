"""Which operators have a kernel for images on a processor: those every target has, and some more."""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir.graph import Node, input_of, input_value, is_op, static_shape
from graphopt.runtime.lower.interpolation import interpolation
from graphopt.runtime.lower.layout import Kind, Layout, has_filters, image_shape
from graphopt.runtime.lower.phases import has_phases
from graphopt.runtime.lower.rows import TO_PIXELS, TO_ROWS

_OF_IMAGES = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "QuantizeLinear")


class CpuLayout(Layout):
    """What is known of every tensor before any kernel is chosen."""

    def _kind(self, node: Node) -> Kind | None:
        kind = super()._kind(node)
        if kind is not None:
            return kind
        if is_op(node, "Conv"):
            return "conv" if has_filters(node) else None  # groups that fill no vectors: `groups.py`
        if is_op(node, "ConvTranspose"):
            return "transposed" if has_phases(node) else None
        if is_op(node, "Transpose"):
            return self._turned(node)
        if is_op(node, "MatMul"):
            return "rows-product" if _is_rows_product(node, self.lanes) else None
        if is_op(node, "Softmax"):
            axis = node.attrs.get("axis", -1 if self._graph.opset >= 13 else 1)
            if self._is_over_channels(node, int(axis)):
                return "channel-softmax"
            return "rows-softmax" if _is_last(node, int(axis), self.lanes) else None
        if is_op(node, "Resize"):
            return "interpolate" if interpolation(node) is not None else None
        if not is_op(node, "Gather", "Pad") or id(node.inputs[0]) not in self.blocked:
            return None
        if node.op == "Gather":
            return "pick" if _takes_channels(node) else None
        return "pad" if pads_of_channels(node) is not None else None

    def _is_over_channels(self, node: Node, axis: int) -> bool:
        """Whether a softmax of an image is over its channels, and nothing else."""
        shape = image_shape(node.inputs[0])
        if shape is None or id(node.inputs[0]) not in self.blocked or axis % 4 != 1:
            return False
        # Before opset 13 it is over all that follows the axis, too.
        return self._graph.opset >= 13 or shape[1:] == (1, 1)

    def _turned(self, node: Node) -> Kind | None:
        """Between channels that lie together and images."""
        given, order = node.inputs[0], tuple(node.attrs.get("perm", ()))
        if order == TO_ROWS and id(given) in self.blocked:
            return "to-rows"
        made = node.outputs[0]
        is_image = order == TO_PIXELS and image_shape(made) is not None
        # What reads it in another way would have to turn it back.
        return (
            "to-pixels" if is_image and any(is_op(r, *_OF_IMAGES) for r in made.outputs) else None
        )


def _is_rows_product(node: Node, lanes: int) -> bool:
    """Whether a MatMul is of two computed matrices, or a batch of them, that lie row by row."""
    shapes = [static_shape(t) for t in node.inputs]
    made = static_shape(node.outputs[0])
    if not made or 0 in made or made[-1] < lanes or any(s is None or len(s) < 2 for s in shapes):
        return False
    batches = [math.prod(s[:-2]) for s in shapes if s is not None]
    is_number = all(np.dtype(t.dtype) == np.float32 for t in node.inputs)
    return is_number and all(b in (1, math.prod(made[:-2])) for b in batches)


def _is_last(node: Node, axis: int, lanes: int) -> bool:
    """Whether this is the last axis of numbers of a size known now, at least one vector."""
    shape, number = static_shape(node.inputs[0]), np.dtype(node.outputs[0].dtype)
    if shape is None or not shape or number != np.float32:
        return False
    return axis % len(shape) == len(shape) - 1 and shape[-1] >= lanes


def _takes_channels(node: Node) -> bool:
    """Whether a Gather takes whole channels of an image, that are known now."""
    given, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    indices = input_value(node, 1)
    known = indices is not None and indices.ndim == 1 and indices.size > 0
    return known and given is not None and made is not None and int(node.attrs.get("axis", 0)) == 1


def pads_of_channels(node: Node) -> tuple[int, int] | None:
    """How many channels of zeros a Pad puts before and behind an image; None where it does else."""
    if image_shape(node.inputs[0]) is None or image_shape(node.outputs[0]) is None:
        return None
    pads, value = input_value(node, 1), input_of(node, 2)
    is_zero = value is None or not np.any(input_value(node, 2))
    if node.attrs.get("mode", "constant") != "constant" or pads is None or not is_zero:
        return None
    if value is not None and input_value(node, 2) is None:
        return None
    if input_of(node, 3) is not None and input_value(node, 3) is None:
        return None
    axes = input_value(node, 3)
    order = [0, 1, 2, 3] if axes is None else [int(a) % 4 for a in axes.reshape(-1)]
    widths = np.zeros((2, 4), np.int64)
    widths[:, order] = pads.reshape(2, -1)
    before, behind = (int(w) for w in widths[:, 1])
    is_elsewhere = np.delete(widths, 1, axis=1).any()
    return None if is_elsewhere or min(before, behind) < 0 else (before, behind)
