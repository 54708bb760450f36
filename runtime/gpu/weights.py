"""Weights in the order a GPU's kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.runtime.lower.weights import padded

Values = np.ndarray[Any, Any]


def conv(weight: Values, groups: int, blocks: int) -> Values:
    """(O, C, u, v) as [group][tile of blocks][u][v][C / 4][4 of C][blocks][4 of O]."""
    out, depth, high, across = weight.shape
    own = out // groups
    split = weight.reshape(groups, own, depth, high, across)
    wide = 4 * blocks
    split = padded(padded(split, 1, -(-own // wide) * wide), 2, -(-depth // 4) * 4)
    tiles, fours = split.shape[1] // wide, split.shape[2] // 4
    split = split.reshape(groups, tiles, blocks, 4, fours, 4, high, across)
    return np.ascontiguousarray(split.transpose(0, 1, 6, 7, 4, 5, 2, 3))


def transposed(weight: Values, groups: int) -> Values:
    """(C, O / groups, u, v) of a transposed convolution as (O, C / groups, u, v)."""
    depth, own, high, across = weight.shape
    split = weight.reshape(groups, depth // groups, own, high, across)
    return split.transpose(0, 2, 1, 3, 4).reshape(groups * own, depth // groups, high, across)


def depthwise(weight: Values) -> Values:
    """(C, 1, u, v) as [C / 4][u][v][4]."""
    channels, _, high, across = weight.shape
    split = padded(weight, 0, -(-channels // 4) * 4).reshape(-1, 4, high, across)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1))


def dense(weight: Values) -> Values:
    """(inputs, outputs) as [input][output / 4][4]."""
    return np.ascontiguousarray(padded(weight, 1, -(-weight.shape[1] // 4) * 4))
