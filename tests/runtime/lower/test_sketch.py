"""What a network is predicted to take: from the kernels it really gets, each of which has a figure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import graph_from

from graphopt.ir.graph import Graph
from graphopt.runtime.kernels.conv import DirectConv, Window
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.winograd import WinogradInput, WinogradOutput
from graphopt.runtime.lower import choose, choose_int8, predict
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.lower.sketch import Sketch
from graphopt.runtime.machine import machine_of
from graphopt.runtime.targets import target
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.test_lowered_networks import NETWORKS

ENDLESS = 1e12  # bytes a cycle: memory takes no time


def fixed(case: str) -> Graph:
    graph = graph_from(NETWORKS[case][0])
    fix_sizes(graph)
    return graph


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("case", NETWORKS)
def test_a_sketch_is_the_program_without_its_constants(case: str, machine: str) -> None:
    """The same kernels: their cycles are those of the steps of the real lowering."""
    sketch = Sketch(fixed(case), MACHINES[machine], MACHINES[machine])
    sketch.run()
    program = Lowering(fixed(case), MACHINES[machine]).run()
    steps = [predict.cycles(s.kernel, s.end - s.begin, MACHINES[machine]) for s in program.steps]
    assert sketch.total == pytest.approx(sum(steps))
    if not any(n.op == "Split" for n in fixed(case).nodes):  # whose pieces are nodes of their own
        turned = (" to pixels", " to rows")  # what is put between
        named = {name for name in sketch.cycles if not name.endswith(turned)}
        assert named <= {n.name for n in fixed(case).nodes}
    assert not sketch.program.constants


@pytest.mark.parametrize("case", NETWORKS)
def test_every_kernel_of_ours_has_a_figure(case: str) -> None:
    for step in Lowering(fixed(case), MACHINES["neon"]).run().steps:
        if step.ranged and not isinstance(step.kernel, WinogradInput):  # counted with what reads it
            assert predict.cycles(step.kernel, step.end - step.begin, MACHINES["neon"]) > 0, step


def kernels(kind: type) -> list[tuple[object, int]]:
    graph = graph_from(
        """(float[1,32,30,30] x) => (float[1,64,30,30] y) <float[64,32,3,3] w, float[64,64,1,1] v>
        { c = Conv <pads = [1,1,1,1]> (x, w)  y = Conv (c, v) }"""
    )
    program = Lowering(graph, MACHINES["neon"]).run()
    return [(s.kernel, s.end - s.begin) for s in program.steps if isinstance(s.kernel, kind)]


def test_products_take_what_they_were_chosen_for() -> None:
    machine = replace(MACHINES["neon"], bytes_per_cycle=ENDLESS)
    graph = graph_from(
        """(float[1,32,30,30] x) => (float[1,64,30,30] y) <float[64,32,3,3] w, float[64,64,1,1] v>
        { c = Conv <pads = [1,1,1,1]> (x, w)  y = Conv (c, v) }"""
    )
    program = Lowering(graph, machine).run()
    taken = {WinogradOutput: 0.0, DirectConv: 0.0}
    for step in program.steps:
        if type(step.kernel) in taken:
            parts = step.end - step.begin
            taken[type(step.kernel)] += predict.cycles(step.kernel, parts, machine)
    fast = choose.winograd(machine, 8, 16, (30, 30))
    slow = choose.direct(machine, Window((1, 1)), 16, 16, (30, 30))
    assert taken[WinogradOutput] == pytest.approx(fast.cycles)
    assert taken[DirectConv] == pytest.approx(slow.cycles)


def test_half_of_what_memory_takes_is_hidden() -> None:
    """Weights that fit no cache, of one pixel: what is read twice as slowly adds as much again."""
    kernel = DirectConv(
        replace(MACHINES["neon"], cache=0, bytes_per_cycle=1.0),
        Window((1, 1)),
        source=None,  # type: ignore[arg-type]
        sink=None,  # type: ignore[arg-type]
        depth=16,
        blocks=16,
        height=1,
        width=1,
        vectors=4,
        columns=1,
    )
    slow = predict.cycles(kernel, kernel.parts, MACHINES["neon"])
    at_hand = replace(kernel, machine=replace(kernel.machine, bytes_per_cycle=ENDLESS))
    fast = predict.cycles(at_hand, kernel.parts, MACHINES["neon"])
    assert slow - fast == pytest.approx(0.5 * 64 * 64 * 4)


@pytest.mark.parametrize(("board", "faster"), [("tx2", "float"), ("kirin990", "integers")])
def test_bytes_against_winograd(board: str, faster: str) -> None:
    """smull's are slower than Winograd's products in float32, sdot's are faster."""
    machine = machine_of(target(board))
    window, size = Window((3, 3), pads=(1, 1)), (28, 28)
    tile = choose_int8.conv(machine, window, 64, 64, size)
    integers = choose_int8.cycles(machine, window, 64, 64, size, tile)
    real = choose.conv(machine, choose.Shape(window, 16, 16, size, 1)).cycles
    assert (real < integers) is (faster == "float")


def test_a_part_of_a_kernel_takes_its_part() -> None:
    ((kernel, parts),) = kernels(DirectConv)
    whole = predict.cycles(kernel, parts, MACHINES["neon"])  # type: ignore[arg-type]
    assert predict.cycles(kernel, parts // 2, MACHINES["neon"]) == pytest.approx(whole / 2)  # type: ignore[arg-type]


def test_pairwise_sums_cost_cortex_a57_more() -> None:
    """As counted: `choose_int8` leaves out what is the same for every tile."""
    machine = machine_of(target("tx2"))
    window, size = Window((3, 3), pads=(1, 1)), (28, 28)
    tile = choose_int8.conv(machine, window, 64, 64, size)
    kernel = IntegerConv(
        machine,
        window,
        source=None,  # type: ignore[arg-type]
        sink=None,  # type: ignore[arg-type]
        depth=64,
        blocks=4,
        height=28,
        width=28,
        vectors=tile.vectors,
        columns=tile.columns,
        lanes=16,
    )
    least = choose_int8.cycles(machine, window, 64, 64, size, tile)
    assert 1.1 * least < predict.cycles(kernel, kernel.parts, machine) < 1.15 * least
