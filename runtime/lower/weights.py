"""Weights in the order kernels read them."""

from __future__ import annotations

from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]
_BLOCK = 16  # channels of a pixel of integers that lie together


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


def _integers(weight: Values, outputs: int) -> Values:
    """(O, C, u, v) as [tile][outputs][C / 16][16][u][v] of bytes."""
    weight = padded(weight, 0, -(-weight.shape[0] // outputs) * outputs)
    weight = padded(weight, 1, -(-weight.shape[1] // _BLOCK) * _BLOCK)
    out, depth, high, across = weight.shape
    return weight.reshape(out // outputs, outputs, depth // _BLOCK, _BLOCK, high, across)


def by_fours(weight: Values, lanes: int, vectors: int) -> Values:
    """(O, C, u, v) as [tile][C / 16][u][v][4 of 16][vectors][lanes][4 channels]."""
    split = _integers(weight, lanes * vectors)
    tiles, _, depth, _, high, across = split.shape
    fours = split.reshape(tiles, vectors, lanes, depth, 4, 4, high, across)
    return np.ascontiguousarray(fours.transpose(0, 3, 6, 7, 4, 1, 2, 5), np.int8)


def by_outputs(weight: Values, lanes: int, vectors: int) -> Values:
    """(O, C, u, v) as [tile][C / 16][u][v][vectors * lanes][16]."""
    split = _integers(weight, lanes * vectors)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 1, 3), np.int8)


def by_channels(weight: Values, lanes: int, vectors: int) -> Values:
    """(O, C, u, v) as [tile][C / 16][u][v][16][vectors * lanes]."""
    split = _integers(weight, lanes * vectors)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1), np.int8)


# In the order each way to multiply bytes reads them.
INTEGERS = {"sdot": by_fours, "vnni": by_fours, "smlal": by_outputs, "wide": by_channels}


def channels(values: Values, to: int) -> Values:
    """One value per channel, with zeros up to a length of `to`."""
    return padded(np.asarray(values, np.float32), 0, to)


def shift(how: str, dtype: str) -> int:
    """What an instruction sees a pixel less by: its highest bit is flipped where the sign is wrong."""
    if how == "vnni" and dtype == "int8":
        return -128
    return 128 if how in ("sdot", "smlal") and dtype == "uint8" else 0
