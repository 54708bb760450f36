"""Which operators have a kernel for images on a processor: those every target has, and some more."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Node, input_of, input_value, is_op
from graphopt.runtime.lower.layout import Kind, Layout, image_shape
from graphopt.runtime.lower.phases import has_phases


class CpuLayout(Layout):
    """What is known of every tensor before any kernel is chosen."""

    def _kind(self, node: Node) -> Kind | None:
        kind = super()._kind(node)
        if kind is not None:
            return kind
        if is_op(node, "ConvTranspose"):
            return "transposed" if has_phases(node) else None
        if not is_op(node, "Gather", "Pad") or id(node.inputs[0]) not in self.blocked:
            return None
        if node.op == "Gather":
            return "pick" if _takes_channels(node) else None
        return "pad" if pads_of_channels(node) is not None else None


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
