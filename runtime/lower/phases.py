"""A transposed convolution as stride x stride plain ones, each of which makes every stride-th pixel.

    y[Y] = sum over u of w[u] x[(Y + p - d u) / s],   where s divides Y + p - d u

For Y = s k + a only the taps u = r, r + s / g, r + 2 s / g, ... meet pixels, with g = gcd(d, s) and r the
first u for which s divides a + p - d u. With T of them, v the last,

    y[s k + a] = sum over t < T of w[v - (s / g) t] x[k + (d / g) t - P],   P = -(a + p - d v) / s

which is a plain convolution of stride 1 with the dilation d / g and the padding P (that may be negative),
in both directions. Where there is no such tap, one of zero stands for it: the result is the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_of, input_value
from graphopt.runtime.kernels.conv import Spread, Window
from graphopt.runtime.lower.groups import groups_of
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
        # The tap behind the last one is that of zero.
        whole = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1)))
        return whole[:, :, list(rows)][:, :, :, list(columns)]

    def reach(self, image: Image) -> None:
        """Covers the border of the image that is read."""
        window, size = self.window, (image.height, image.width)
        reads = [
            self.size[i] + (window.kernel[i] - 1) * window.dilation[i] - window.pads[i]
            for i in range(2)
        ]
        below, beside = (max(0, r - n) for r, n in zip(reads, size, strict=True))
        top, left = (max(0, p) for p in window.pads)
        image.border.cover(top, below, left, beside)


def phases(node: Node) -> list[Phase]:
    """The plain convolutions of a node for which `has_phases` holds."""
    shape = image_shape(node.outputs[0])
    assert shape is not None
    kernel = node.inputs[1].shape[2:]
    strides, dilations = (
        tuple(int(v) for v in node.attrs.get(name, (1, 1))) for name in ("strides", "dilations")
    )
    lines = [
        list(_lines(int(kernel[i]), strides[i], dilations[i], pads_of(node)[i], shape[1 + i]))
        for i in range(2)
    ]
    down, right = (d // gcd(d, s) for d, s in zip(dilations, strides, strict=True))
    return [
        Phase(
            Window((len(rows), len(columns)), dilation=(down, right), pads=(above, before)),
            (rows, columns),
            Spread((strides[0], strides[1]), (top, left)),
            (high, wide),
        )
        for (top, rows, above, high), (left, columns, before, wide) in product(*lines)
    ]


def _lines(kernel: int, stride: int, dilation: int, pad: int, size: int) -> Any:
    """(first result, taps, padding, results) along one direction."""
    for first in range(min(stride, size)):
        taps = [u for u in range(kernel) if (first + pad - dilation * u) % stride == 0][::-1]
        padding = -(first + pad - dilation * taps[0]) // stride if taps else 0
        yield first, tuple(taps or [kernel]), padding, -(-(size - first) // stride)


def has_phases(node: Node) -> bool:
    """Whether a ConvTranspose is made of plain convolutions we have kernels for."""
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    if image is None or made is None or input_value(node, 1) is None:
        return False
    if input_of(node, 2) is not None and input_value(node, 2) is None:
        return False
    told = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attrs
    return told and len(node.inputs[1].shape) == 4 and min(pads_of(node)) >= 0


def is_depthwise(node: Node) -> bool:
    """Whether a ConvTranspose has one filter per channel."""
    channels, each = node.inputs[1].shape[:2]
    return groups_of(node) == channels and each == 1 and channels > 1
