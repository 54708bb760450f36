"""Transformed weights stay within a limit, and what that costs is as little as can be."""

from __future__ import annotations

from itertools import product

import pytest
from conftest import graph_from

from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.lower import choose
from graphopt.runtime.lower.arena import plan
from graphopt.runtime.lower.batch import lower
from graphopt.runtime.lower.choose import Direct, Shape, Winograd
from graphopt.runtime.lower.limit import lasting_bytes, within
from tests.runtime.kernels.harness import MACHINES

EVERY = pytest.mark.parametrize("machine", MACHINES)
SAME = Window((3, 3), pads=(1, 1))
SHAPES = {
    Shape(SAME, 4, 4, (56, 56), 1): 2,
    Shape(SAME, 8, 16, (28, 28), 1): 1,
    Shape(SAME, 16, 16, (14, 14), 1): 3,
    Shape(Window((1, 1)), 16, 16, (14, 14), 1): 1,
}
NET = """(float[1,32,28,28] x) => (float[1,64,28,28] y) <float[64,32,3,3] w, float[64,64,3,3] v, float[64,64,3,3] u>
    { a = Conv <pads = [1,1,1,1]> (x, w)  b = Conv <pads = [1,1,1,1]> (a, v)  y = Conv <pads = [1,1,1,1]> (b, u) }"""


def used(machine: str, ways: dict[Shape, Direct | Winograd]) -> int:
    return sum(SHAPES[s] * lasting_bytes(MACHINES[machine], s, w) for s, w in ways.items())


def cycles(ways: dict[Shape, Direct | Winograd]) -> float:
    return sum(SHAPES[s] * w.cycles for s, w in ways.items())


@EVERY
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.8, 0.999, 1.0])
def test_a_limit_is_kept(share: float, machine: str) -> None:
    free = within(MACHINES[machine], SHAPES, 1 << 60)
    limit = int(share * used(machine, free))
    found = within(MACHINES[machine], SHAPES, limit)
    assert used(machine, found) <= limit
    assert cycles(found) >= cycles(free)
    if share == 0:
        assert all(isinstance(w, Direct) for w in found.values())
    if share == 1:
        assert found == free == {s: choose.conv(MACHINES[machine], s) for s in SHAPES}


@EVERY
def test_little_is_lost(machine: str) -> None:
    """Within a tenth of the best there is, of all ways to mix what the search looks at."""
    kind = MACHINES[machine]
    limit = used(machine, within(kind, SHAPES, 1 << 60)) // 3
    every = {
        s: choose.ways(kind, s, 12) if s.suits_winograd else [choose.conv(kind, s)] for s in SHAPES
    }
    mixes = (dict(zip(every, ways, strict=True)) for ways in product(*every.values()))
    best = min(cycles(m) for m in mixes if used(machine, m) <= limit)
    assert cycles(within(kind, SHAPES, limit)) <= 1.1 * best


def test_what_was_measured_is_kept_where_it_fits() -> None:
    shape = next(iter(SHAPES))
    tuned = {shape: Direct(2, 4, 1.0)}
    assert within(MACHINES["neon"], SHAPES, 1 << 60, tuned)[shape] == tuned[shape]


@EVERY
def test_a_network_is_lowered_within_its_limit(machine: str) -> None:
    graph = graph_from(NET)
    free = plan(lower(graph.copy(), MACHINES[machine])).lasting
    assert free > 0
    half = plan(lower(graph.copy(), MACHINES[machine], lasting=free // 2)).lasting
    assert 0 < half <= free // 2
    assert plan(lower(graph.copy(), MACHINES[machine], lasting=0)).lasting == 0
    assert plan(lower(graph.copy(), MACHINES[machine], lasting=free)).lasting == free
