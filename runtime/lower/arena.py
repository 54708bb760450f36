"""Offsets in one arena for memory that lives from one step to another.

Two pieces that are in use at the same time must not overlap; the arena can be no smaller than the
most that is in use at once. Pieces are placed one after another, each at the lowest free offset: the
largest first, which reaches that bound on most networks, and where it does not in other orders too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphopt.runtime.lower.program import Memory, Program

# A cache line, and the widest vector.
_ALIGNED = 64


@dataclass(frozen=True)
class Arena:
    """Where every piece lies.

    Attributes:
        offsets: of pieces in the arena, and of lasting ones in memory of their own.
        size: bytes of the arena.
        bound: the most bytes in use at once: no plan needs less.
        lasting: bytes of lasting memory.
    """

    offsets: dict[Memory, int]
    size: int
    bound: int
    lasting: int


@dataclass(frozen=True)
class _Life:
    memory: Memory
    first: int
    last: int
    size: int


# Largest first; by how long a piece is in the way of others; in the order of use, from both ends; and
# those that live longest first, which lets the short ones fill what is left.
_ORDERS: tuple[Callable[[_Life], tuple[int, ...]], ...] = (
    lambda v: (-v.size, v.first),
    lambda v: (-v.size * (v.last - v.first + 1), v.first),
    lambda v: (v.first, -v.size),
    lambda v: (-v.last, -v.size),
    lambda v: (v.first - v.last, -v.size),
)


def plan(program: Program) -> Arena:
    """The arena of a program. Inputs live from the start and outputs to the end."""
    lives = list(_lives(program))
    steps = range(-1, len(program.steps) + 1)
    bound = max((sum(v.size for v in lives if v.first <= s <= v.last) for s in steps), default=0)
    offsets, size = _placed(lives, bound)
    lasting = 0
    for memory in dict.fromkeys(p.of for s in program.prepare for p in s.places):
        if isinstance(memory, Memory):
            offsets[memory] = lasting
            lasting += _aligned(memory.size)
    return Arena(offsets, size, bound, lasting)


def _placed(lives: Sequence[_Life], bound: int) -> tuple[dict[Memory, int], int]:
    """(offsets, size): the smallest of what the orders make."""
    best: dict[Memory, int] = {}
    least = -1
    for order in _ORDERS:
        offsets = _in_order(sorted(lives, key=order))
        size = max((offsets[v.memory] + v.size for v in lives), default=0)
        if least < 0 or size < least:
            best, least = offsets, size
        if least == bound:
            break
    return best, least


def _in_order(lives: Iterable[_Life]) -> dict[Memory, int]:
    offsets: dict[Memory, int] = {}
    placed: list[_Life] = []
    for life in lives:
        beside = sorted(
            (offsets[p.memory], p.size)
            for p in placed
            if p.first <= life.last and life.first <= p.last
        )
        offsets[life.memory] = _lowest(beside, life.size)
        placed.append(life)
    return offsets


def _lowest(taken: Iterable[tuple[int, int]], size: int) -> int:
    at = 0
    for offset, length in taken:
        if offset - at >= size:
            break
        at = max(at, offset + length)
    return at


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _lives(program: Program) -> Iterable[_Life]:
    first: dict[Memory, int] = {}
    last: dict[Memory, int] = {}
    for port in program.inputs:
        if isinstance(port.place.of, Memory):
            first[port.place.of] = last[port.place.of] = -1
    for index, step in enumerate(program.steps):
        for place in step.places:
            if isinstance(place.of, Memory) and not place.of.lasting:
                first.setdefault(place.of, index)
                last[place.of] = index
    for port in program.outputs:
        if isinstance(port.place.of, Memory):
            first.setdefault(port.place.of, -1)
            last[port.place.of] = len(program.steps)
    for memory, begin in first.items():
        yield _Life(memory, begin, last[memory], _aligned(memory.size))
