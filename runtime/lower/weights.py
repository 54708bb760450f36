"""Weights in the order kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]


def padded(values: Values, axis: int, to: int) -> Values:
    """The values with zeros at the end of `axis`, up to a length of `to`."""
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, to - values.shape[axis])
    return np.pad(values, widths)


def direct(weight: Values, lanes: int, vectors: int) -> Values:
    """(O, C, u, v) as [tile][C / lanes][u][v][lane of C][vectors * lanes]."""
    wide = vectors * lanes
    weight = padded(weight, 0, -(-weight.shape[0] // wide) * wide)
    weight = padded(weight, 1, -(-weight.shape[1] // lanes) * lanes)
    out, depth, high, across = weight.shape
    split = weight.reshape(out // wide, wide, depth // lanes, lanes, high, across)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1), np.float32)


def plain(weight: Values, lanes: int, vectors: int) -> Values:
    """(O, C, u, v) as [tile][C][u][v][vectors * lanes]."""
    wide = vectors * lanes
    weight = padded(weight, 0, -(-weight.shape[0] // wide) * wide)
    split = weight.reshape(-1, wide, *weight.shape[1:])
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1), np.float32)


def depthwise(weight: Values, lanes: int) -> Values:
    """(C, 1, u, v) as [C / lanes][u][v][lanes]."""
    weight = padded(weight, 0, -(-weight.shape[0] // lanes) * lanes)
    split = weight.reshape(-1, lanes, *weight.shape[2:])
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1), np.float32)


def channels(values: Values, to: int) -> Values:
    """One value per channel, with zeros up to a length of `to`."""
    return padded(np.asarray(values, np.float32), 0, to)
