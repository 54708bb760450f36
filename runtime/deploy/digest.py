"""Inputs every machine draws alike, and what is kept of the outputs for them (c/check.c in Python)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.runtime.deploy.weights import mix
from graphopt.runtime.lower.program import Port

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 1 << 18

Values = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Digest:
    """What is kept of an output; all but the counts over its finite values.

    Attributes:
        projection: the sum of value times a number in [-1, 1) drawn for its place, / sqrt(finite).
    """

    count: int
    finite: int
    mean: float
    rms: float
    least: float
    most: float
    projection: float


def draw(port: Port, index: int) -> Values:
    """The input of number `index`: floats in [0, 1), integers 0 or 1."""
    size = int(np.prod(port.shape, dtype=np.int64))
    dtype = np.dtype(port.dtype)
    values = _uniform(index + 1, 0, size)
    made = values if dtype.kind == "f" else values >= 0.5
    return made.astype(dtype).reshape(port.shape)


def digest_of(values: Values) -> Digest:
    """The digest of an output."""
    flat = values.reshape(-1)
    count = squares = total = projected = 0.0
    least, most = math.inf, -math.inf
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        weights = 2 * _uniform(0, start, piece.size) - 1
        good = np.isfinite(piece)
        piece, weights = piece[good], weights[good]
        if piece.size:
            count += piece.size
            total += float(piece.sum())
            squares += float(np.square(piece).sum())
            projected += float((piece * weights).sum())
            least, most = min(least, float(piece.min())), max(most, float(piece.max()))
    many = count or 1.0
    least, most = (least, most) if count else (0.0, 0.0)
    return Digest(
        count=flat.size,
        finite=int(count),
        mean=total / many,
        rms=math.sqrt(squares / many),
        least=least,
        most=most,
        projection=projected / math.sqrt(many),
    )


def _uniform(stream: int, first: int, count: int) -> Values:
    """Numbers in [0, 1) with 24 bits."""
    places = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    words = mix(np.uint64(stream << 40) + places * _GOLDEN)
    return (words >> np.uint64(40)).astype(np.float64) / (1 << 24)
