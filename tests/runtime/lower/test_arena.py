"""The arena: nothing overlaps that is in use at once, and no more is taken than has to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from graphopt.runtime.lower.arena import plan
from graphopt.runtime.lower.program import Memory, Place, Port, Program, Step
from tests.runtime.lower.interpreter import overlaps


class _Nothing:
    def build(self, name: str) -> None:
        raise NotImplementedError(name)


def _program(*steps: tuple[Memory, ...]) -> Program:
    kernel = _Nothing()
    made = [Step(kernel, tuple(Place(m) for m in s), 0, 1, "step") for s in steps]
    return Program(steps=made)


def test_a_chain_needs_two_neighbours() -> None:
    pieces = [Memory(str(i), 1024 * (1 + i % 2)) for i in range(12)]
    program = _program(*pairwise(pieces))
    arena = plan(program)
    assert arena.size == arena.bound == 3 * 1024
    assert not overlaps(program, arena)


def test_inputs_live_from_the_start_and_outputs_to_the_end() -> None:
    first, middle, last = (Memory(n, 64) for n in ("first", "middle", "last"))
    program = _program((middle,), (first, last))
    program.inputs.append(Port("x", (16,), "float32", Place(first)))
    program.outputs.append(Port("y", (16,), "float32", Place(middle)))
    arena = plan(program)
    assert len({arena.offsets[m] for m in (first, middle, last)}) == 3
    assert arena.size == 192


def test_lasting_memory_is_apart() -> None:
    lasting, given = Memory("u", 100, lasting=True), Memory("x", 100)
    program = _program((lasting, given))
    program.prepare.append(Step(_Nothing(), (Place(0), Place(lasting)), 0, 1, "prepare"))
    arena = plan(program)
    assert (arena.size, arena.lasting) == (128, 128)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_programs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = [Memory(str(i), int(rng.integers(1, 5000))) for i in range(30)]
    steps = [
        tuple(pieces[j] for j in rng.choice(range(max(0, i - 6), i + 1), 3) if j < 30)
        for i in range(1, 30)
    ]
    program = _program(*steps)
    arena = plan(program)
    assert not overlaps(program, arena)
    assert arena.bound <= arena.size <= 1.3 * arena.bound
