"""Products with weights as matrix products at single positions.

    y[group, p, :] = W[group] x[group, p, :] + b[group]

p is one position of one image, x the patch under all taps there. Taking some of the positions of many
images says more about a layer than all positions of a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Node

Array = np.ndarray[Any, Any]


def why_not_patches(node: Node) -> str | None:
    """What keeps a product with a constant weight from being taken apart, or None."""
    if node.op == "ConvTranspose":
        return "a transposed convolution's results overlap"
    if node.op == "Conv" and node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"it chooses its padding itself ({node.attrs['auto_pad']})"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "it reads its input transposed"
    return None


def groups_of(node: Node) -> int:
    """How many groups a product has."""
    return int(node.attrs.get("group", 1)) if node.op == "Conv" else 1


def rows_of(node: Node, weight: Array) -> Array:
    """(groups, outputs, elements) of a weight."""
    if node.op != "Conv" and not node.attrs.get("transB", 0):
        weight = weight.T
    groups = groups_of(node)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of(node: Node, rows: Array, shape: Sequence[int]) -> Array:
    """The weight that `rows_of` made rows of, laid out again."""
    if node.op != "Conv" and not node.attrs.get("transB", 0):
        return np.ascontiguousarray(rows.reshape(shape[1], shape[0]).T)
    return rows.reshape(shape)


def positions_of(node: Node, result: Array) -> int:
    """How many positions a result has, over all images of the batch."""
    channels = result.shape[1 if node.op == "Conv" else -1]
    return int(result.size // max(channels, 1))


def results_at(node: Node, result: Array, picked: Array) -> Array:
    """(groups, positions, outputs) of a result, at flat positions."""
    if node.op == "Conv":
        result = np.moveaxis(result, 1, -1)
    rows = result.reshape(-1, result.shape[-1])[picked]
    groups = groups_of(node)
    return rows.reshape(len(picked), groups, -1).transpose(1, 0, 2)


def patches_at(node: Node, source: Array, taps: Sequence[int], picked: Array) -> Array:
    """(groups, positions, elements) of what a product reads, at flat positions of its result.

    Args:
        node: the product.
        source: (N, C, ...) for a convolution, (..., C) otherwise.
        taps: the spatial axes of the weight.
        picked: numbers of positions, counted over images and then over places.
    """
    if node.op != "Conv":
        return source.reshape(-1, source.shape[-1])[picked][None]
    rank = len(taps)
    strides = node.attrs.get("strides", [1] * rank)
    spread = node.attrs.get("dilations", [1] * rank)
    pads = node.attrs.get("pads", [0] * (2 * rank))
    if node.attrs.get("auto_pad") == "VALID":
        pads = [0] * (2 * rank)
    padded = np.pad(source, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape[2:], taps, strides, spread, strict=True)
    ]
    image, *at = np.unravel_index(picked, [len(source), *sizes])
    index = []
    for axis, (where, k, s, d) in enumerate(zip(at, taps, strides, spread, strict=True)):
        shape = [1] * rank
        shape[axis] = k
        index.append(where.reshape(-1, *[1] * rank) * s + (np.arange(k) * d).reshape(shape))
    # Indices on both sides of the channels: these come last, behind (positions, taps...).
    found = padded[(image.reshape(-1, *[1] * rank), slice(None), *index)]
    found = np.moveaxis(found, -1, 1)
    groups = groups_of(node)
    return found.reshape(len(picked), groups, -1).transpose(1, 0, 2)
