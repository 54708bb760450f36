"""A transposed convolution as stride x stride plain ones, each of which makes every stride-th pixel.

    y[Y] = sum over u of w[u] x[(Y + p - u) / s],   where s divides Y + p - u

For Y = s k + a only the taps u = r, r + s, ... meet pixels, r = (a + p) mod s. With T of them,

    y[s k + a] = sum over t < T of w[r + s (T - 1 - t)] x[k + t - P],   P = T - 1 - (a + p) div s

which is a plain convolution of stride 1 with the padding P (that may be negative), in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_of, input_value
from graphopt.runtime.kernels.conv import Spread, Window
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import image_shape, pads_of

Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Phase:
    """One of the plain convolutions.

    Attributes:
        window: its kernel and padding.
        taps: which rows and columns of the whole kernel it has, in its order.
        spread: where its results stand.
        size: how many rows and columns of results it makes.
    """

    window: Window
    taps: tuple[tuple[int, ...], tuple[int, ...]]
    spread: Spread
    size: tuple[int, int]

    def of(self, weight: Values) -> Values:
        """Its part of a weight (O, C, u, v)."""
        rows, columns = self.taps
        return weight[:, :, list(rows)][:, :, :, list(columns)]

    def reach(self, image: Image) -> None:
        """Covers the border of the image that is read."""
        (top, left), (high, wide) = self.window.pads, self.window.kernel
        below = self.size[0] - 1 + high - top - image.height
        beside = self.size[1] - 1 + wide - left - image.width
        image.border.cover(max(0, top), max(0, below), max(0, left), max(0, beside))


def phases(node: Node) -> list[Phase]:
    """The plain convolutions of a node for which `has_phases` holds."""
    shape = image_shape(node.outputs[0])
    assert shape is not None
    kernel, strides = node.inputs[1].shape[2:], node.attrs.get("strides", (1, 1))
    lines = [
        list(_lines(int(kernel[i]), int(strides[i]), pads_of(node)[i], shape[1 + i]))
        for i in range(2)
    ]
    step = (int(strides[0]), int(strides[1]))
    return [
        Phase(
            Window((len(rows), len(columns)), pads=(above, before)),
            (rows, columns),
            Spread(step, (top, left)),
            (high, wide),
        )
        for (top, rows, above, high), (left, columns, before, wide) in product(*lines)
    ]


def _lines(kernel: int, stride: int, pad: int, size: int) -> Any:
    """(first result, taps, padding, results) along one direction."""
    for first in range(min(stride, size)):
        base, rest = divmod(first + pad, stride)
        taps = tuple(range(rest, kernel, stride))[::-1]
        yield first, taps, len(taps) - 1 - base, -(-(size - first) // stride)


def has_phases(node: Node) -> bool:
    """Whether a ConvTranspose is made of plain convolutions we have kernels for."""
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    if image is None or made is None or input_value(node, 1) is None:
        return False
    if input_of(node, 2) is not None and input_value(node, 2) is None:
        return False
    told = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attrs
    weight, strides = node.inputs[1].shape, node.attrs.get("strides", (1, 1))
    is_plain = len(weight) == 4 and set(node.attrs.get("dilations", (1,))) == {1}
    if not told or not is_plain or min(pads_of(node)) < 0:
        return False
    # A pixel that no tap meets would be the bias alone.
    return all(int(k) >= int(s) for k, s in zip(weight[2:], strides, strict=True))


def is_depthwise(node: Node) -> bool:
    """Whether a ConvTranspose has one filter per channel."""
    channels, each = node.inputs[1].shape[:2]
    return int(node.attrs.get("group", 1)) == channels and each == 1 and channels > 1
