"""The model that chooses: what fits the registers, and which way its decisions lean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.runtime.kernels.conv import Window, tiles
from graphopt.runtime.lower import choose
from graphopt.runtime.machine import llvm_target, machine_of
from graphopt.runtime.targets import target
from tests.runtime.kernels.harness import MACHINES

EVERY = pytest.mark.parametrize("machine", MACHINES)
SAME = Window((3, 3), pads=(1, 1))


@EVERY
def test_tiles_fit_the_registers(machine: str) -> None:
    kind = MACHINES[machine]
    for vectors, columns in choose.register_tiles(kind):
        inputs = columns if kind.lane_products else 1
        assert vectors * columns + inputs + vectors < kind.registers


@EVERY
@pytest.mark.parametrize("width", [1, 5, 13, 20, 52, 104])
def test_direct_convolutions_come_near_the_limit(machine: str, width: int) -> None:
    """At most 1.3 times what the multipliers alone need, rows of one pixel apart."""
    kind = MACHINES[machine]
    found = choose.direct(kind, SAME, 8, 12, (width, width))
    limit = 9 * 8 * kind.lanes * 12 * width * width / kind.products
    assert found.cycles >= limit
    assert width == 1 or found.cycles <= 1.35 * limit


@pytest.mark.parametrize("columns", [1, 3, 7, 24])
def test_rows_are_covered_once(columns: int) -> None:
    for width in range(1, 60):
        covered = [
            first + i * each + k
            for first, count, each in tiles(width, columns)
            for i in range(count)
            for k in range(each)
        ]
        assert covered == list(range(width))
        assert max(each for _, _, each in tiles(width, columns)) <= columns


def test_winograd_pays_on_images_and_not_on_pixels() -> None:
    kind = MACHINES["neon"]
    large, small = (
        (choose.winograd(kind, 16, 16, s), choose.direct(kind, SAME, 16, 16, s))
        for s in ((56, 56), (1, 1))
    )
    assert large[0].cycles < large[1].cycles / 2
    assert small[0].cycles > small[1].cycles


def test_slow_memory_makes_tiles_smaller() -> None:
    """Weights of large tiles take more memory than they save work."""
    fast = MACHINES["neon"]
    slow = replace(fast, bytes_per_cycle=0.2)
    args = (128, 128, (13, 13))
    assert choose.winograd(slow, *args).m < choose.winograd(fast, *args).m
    direct = choose.direct(slow, SAME, *args[:2], args[2])
    assert direct.cycles < choose.winograd(slow, *args).cycles


@EVERY
def test_strips_are_whole_tiles(machine: str) -> None:
    for size in ((13, 13), (52, 52), (208, 208)):
        found = choose.winograd(MACHINES[machine], 8, 8, size)
        assert found.strip % found.columns == 0


def test_float16_keeps_to_small_tiles() -> None:
    half = replace(MACHINES["neon"], lanes=8, dtype="float16")
    assert all(choose.winograd(half, 16, 16, (s, s)).m <= 4 for s in (10, 20, 40, 56))


def test_machines_of_boards() -> None:
    a57, a76 = machine_of(target("tx2")), machine_of(target("kirin990"))
    assert (a57.lanes, a57.products, a76.products, a57.lane_products) == (4, 1, 2, True)
    half = machine_of(target("kirin990"), "float16")
    assert (half.lanes, half.products, half.width) == (8, 2, 2)
    assert llvm_target(target("kirin990"))["mcpu"] == "neoverse-n1"
    assert llvm_target(target("tx2"))["mcpu"] == "cortex-a57"
