"""Which tile a convolution is computed in: a model of the processor, with no knob to tune.

A work-item does the products of its tile, and loads its pixels and weights; the longer of the two
counts, times the waves of groups that the processor's units need for all of them. Groups that bring
what they need into local memory load each value once for all their items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from graphopt.runtime.board import Gpu
from graphopt.runtime.gpu.products import Tile
from graphopt.runtime.gpu.simple import Shape
from graphopt.runtime.kernels.conv import Window

# What the makers say of a unit: multiprocessors of 128 cores (Pascal), shader cores (Mali-G76).
_CUDA_CORES = 128
# Work-items a unit needs at a time to hide its memory's latency.
_ITEMS = {"cuda": 512, "opencl": 192}
# 32-bit registers of a work-item while so many are under way.
_REGISTERS = {"cuda": 112, "opencl": 60}
# Vector products a unit does in the time of one load of four elements.
_LOAD = {"cuda": 4, "opencl": 3}
_LOCAL_BYTES = 16 << 10


@dataclass(frozen=True)
class Unit:
    """What tiles have to know of a GPU.

    Attributes:
        units: that run groups independently.
        items: work-items one of them needs to be busy.
        registers: of 32 bits, of one work-item.
        load: products of four by one it does in the time of a load of four.
        shares: whether local memory is faster than what lies behind it.
        half: whether products are in half precision.
    """

    units: int
    items: int
    registers: int
    load: int
    shares: bool
    half: bool


def unit_of(gpu: Gpu, precision: str) -> Unit:
    """The facts of a board's GPU. Mali keeps local memory where it keeps all other."""
    cuda = gpu.kind == "cuda"
    return Unit(
        units=max(1, gpu.cores // _CUDA_CORES) if cuda else gpu.cores,
        items=_ITEMS[gpu.kind],
        registers=_REGISTERS[gpu.kind],
        load=_LOAD[gpu.kind],
        shares=cuda,
        half=precision == "float16",
    )


def tile(unit: Unit, window: Window, image: Shape, made: Shape, groups: int) -> Tile:
    """The tile the model takes least time with."""
    depth, out = image.blocks // groups, made.blocks // groups
    taps = window.kernel[0] * window.kernel[1]
    return min(
        _candidates(unit, out, depth),
        key=lambda t: (_cost(unit, t, made.pixels, out, groups, taps * depth), _order(t)),
    )


def _candidates(unit: Unit, out: int, depth: int) -> Iterator[Tile]:
    for pixels, blocks in product((1, 2, 4, 8), (1, 2, 4)):
        if blocks > max(1, out) or _registers(unit, pixels, blocks) > unit.registers:
            continue
        for across, down in ((64, 1), (32, 2), (16, 4)):
            yield Tile(pixels, blocks, across, down)
        if not unit.shares or depth < 4:
            continue
        for across, down in ((16, 4), (16, 8), (16, 16), (32, 8)):
            # Every item brings in pixels of one place, so places must divide the group.
            if down % pixels == 0 and _local(across, down, pixels, blocks) <= _LOCAL_BYTES:
                yield Tile(pixels, blocks, across, down, 4)


def _registers(unit: Unit, pixels: int, blocks: int) -> int:
    """Sums in float, partial sums, and a pixel's and a block's operands."""
    part = 2 if unit.half else 4
    return pixels * blocks * (4 + part) + (pixels + 4 * blocks) * part + 4 * pixels


def _local(across: int, down: int, pixels: int, blocks: int) -> int:
    return 4 * (across * pixels + down * 4 * blocks) * 16


def _cost(unit: Unit, tile: Tile, pixels: int, out: int, groups: int, steps: int) -> float:
    """Cycles, in the time of one vector product of a unit."""
    wide = -(-pixels // (tile.across * tile.pixels))
    tiles = -(-out // tile.blocks)
    high = -(-tiles // tile.down)
    count = wide * high * groups
    items = tile.across * tile.down
    products = 4 * tile.pixels * tile.blocks
    loads: float = tile.pixels + 4 * tile.blocks
    if tile.depth:
        # From local memory, at half the cost, and each item's share of what the group brings in.
        brought = (tile.across * tile.pixels + tile.down * 4 * tile.blocks) / items
        loads = loads / 2 + brought
    each = max(products, loads * unit.load) * steps * items
    # A unit with less than it needs waits: groups are too few, or the last wave is not full.
    busy = min(1.0, count * items / (unit.units * unit.items))
    waves = -(-count // unit.units) * unit.units / count
    return count * each * waves / (unit.units * max(busy, 1 / unit.items))


def _order(tile: Tile) -> tuple[int, ...]:
    return (tile.depth, tile.pixels * tile.blocks, tile.pixels, tile.across)
