"""The weights file: a header, then constants at offsets that are multiples of 64 (c/weights.c)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime.lower.program import Constant

MAGIC = b"GRAPHOPT"
VERSION = 1
HEADER_SIZE = 64
_ALIGNED = 64
_GOLDEN = 0x9E3779B97F4A7C15
_WORDS = 1 << 18  # hashed at once, to stay in the cache

Words = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weights:
    """What the library has to know of its weights file."""

    size: int
    checksum: int
    offsets: tuple[int, ...]


def write_weights(constants: Sequence[Constant], path: Path) -> Weights:
    """Writes constants in order."""
    offsets, size = _laid_out(constants)
    total = 0
    with path.open("wb") as file:
        file.write(bytes(HEADER_SIZE))
        for offset, values in zip(offsets, constants, strict=True):
            piece = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            padded = np.zeros(_padded(piece.size), np.uint8)
            padded[: piece.size] = piece
            file.write(padded.tobytes())
            total += checksum(padded.view("<u8"), (offset - HEADER_SIZE) // 8)
        # Vectors may be read past the end of the last one.
        file.write(bytes(_ALIGNED))
        end = np.zeros(_ALIGNED // 8, "<u8")
        total = (total + checksum(end, (size - _ALIGNED - HEADER_SIZE) // 8)) % (1 << 64)
        file.seek(0)
        file.write(struct.pack("<8sIIQQ", MAGIC, VERSION, 0, size, total))
    return Weights(size, total, tuple(offsets))


def checksum(words: Words, first: int = 0) -> int:
    """The checksum of 64-bit words, the first of which has the number `first`."""
    total = 0
    for start in range(0, words.size, _WORDS):
        piece = words[start : start + _WORDS]
        numbers = np.arange(first + start + 1, first + start + 1 + piece.size, dtype=np.uint64)
        total += int(mix(piece + numbers * np.uint64(_GOLDEN)).sum(dtype=np.uint64))
    return total % (1 << 64)


def mix(words: Words) -> Words:
    """The finalizer of splitmix64 on every word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _laid_out(constants: Sequence[Constant]) -> tuple[list[int], int]:
    at, offsets = HEADER_SIZE, []
    for values in constants:
        offsets.append(at)
        at += _padded(values.nbytes)
    return offsets, at + _ALIGNED


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
