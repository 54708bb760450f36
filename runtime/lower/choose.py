"""Which algorithm a convolution gets, and the size of its register tiles: a model of the processor.

A register tile of `columns` pixels by `vectors` channel blocks needs, for every channel summed over,
columns * vectors multiply-accumulates, `vectors` loads of weights and the pixels. Its time is that of
the busiest of the three: multipliers, load units, or the wait for an accumulator to be ready again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from graphopt.runtime.kernels.conv import Window, tiles
from graphopt.runtime.kernels.cook_toom import matrices
from graphopt.runtime.kernels.simd import Machine

# Cycles of one turn of the innermost machine loop beside its vector instructions.
_TURN = 2.0
# Larger tiles lose too many digits: F(4, 3) in float16 is some hundredths of the largest value off.
_SIZES = {"float32": (2, 3, 4, 5), "float16": (2, 3, 4)}


@dataclass(frozen=True)
class Direct:
    """A direct convolution with this register tile."""

    vectors: int
    columns: int
    cycles: float


@dataclass(frozen=True)
class Winograd:
    """F(m x m, 3 x 3) with this register tile, so many tiles at a time."""

    m: int
    vectors: int
    columns: int
    strip: int
    cycles: float


def register_tiles(machine: Machine) -> Iterator[tuple[int, int]]:
    """(vectors, columns) that fit in the registers; a quarter of them is left to LLVM."""
    for vectors in range(1, 7):
        for columns in range(1, machine.registers):
            inputs = columns if machine.lane_products else 1
            sums = columns * vectors
            if sums + inputs + vectors < machine.registers and sums <= machine.registers * 3 // 4:
                yield vectors, columns


@cache
def tile_cycles(machine: Machine, vectors: int, columns: int) -> float:
    """Cycles a register tile takes for `lanes` channels."""
    lanes = machine.lanes
    pixels = columns if machine.lane_products else columns * lanes
    products = columns * vectors * lanes / machine.products
    loads = (pixels + vectors * lanes) / machine.loads
    return max(products, loads, lanes * machine.latency) + _TURN


def row_cycles(machine: Machine, vectors: int, columns: int, width: int) -> float:
    """Cycles of a row of pixels, for `lanes` channels."""
    return sum(n * tile_cycles(machine, vectors, c) for _, n, c in tiles(width, columns))


def direct(
    machine: Machine, window: Window, depth: int, blocks: int, size: tuple[int, int]
) -> Direct:
    """The best register tile for a direct convolution.

    Args:
        machine: the processor.
        window: the kernel.
        depth: channel blocks that are summed over.
        blocks: channel blocks of the result (of one group).
        size: (height, width) of the result.
    """
    height, width = size
    taps = depth * window.kernel[0] * window.kernel[1]

    def cost(tile: tuple[int, int]) -> float:
        vectors, columns = tile
        rows = -(-blocks // vectors) * height
        return rows * taps * row_cycles(machine, vectors, columns, width)

    vectors, columns = min(register_tiles(machine), key=lambda t: (cost(t), -t[0]))
    weight = taps * blocks * machine.lanes**2 * machine.width
    return Direct(vectors, columns, cost((vectors, columns)) + _fetch(machine, weight))


def winograd(machine: Machine, depth: int, blocks: int, size: tuple[int, int]) -> Winograd:
    """The best F(m, 3) for a convolution."""
    return min(
        (_winograd(machine, m, depth, blocks, size) for m in _SIZES[machine.dtype]),
        key=lambda w: w.cycles,
    )


def _winograd(machine: Machine, m: int, depth: int, blocks: int, size: tuple[int, int]) -> Winograd:
    count = -(-size[0] // m) * -(-size[1] // m)
    elements = (m + 2) ** 2
    transforms = _transforms(machine, m, depth, blocks, count)
    weight = elements * depth * blocks * machine.lanes**2 * machine.width
    best: Winograd | None = None
    for vectors, columns in register_tiles(machine):
        for strip in _strips(machine, elements, depth, vectors, columns, count):
            strips = -(-count // strip)
            groups = strips * (strip // columns) * -(-blocks // vectors)
            work = elements * depth * groups * tile_cycles(machine, vectors, columns) + transforms
            # Every strip reads all weights; what a strip is made of is read for every channel tile.
            tiles = elements * depth * strip * machine.lanes * machine.width
            turns = -(-blocks // vectors) + 1  # written once
            moved = strips * (_fetch(machine, weight) + turns * _fetch(machine, tiles))
            cycles = work + moved
            if best is None or (cycles, strip) < (best.cycles, best.strip):
                best = Winograd(m, vectors, columns, strip, cycles)
    assert best is not None
    return best


def _strips(
    machine: Machine, elements: int, depth: int, vectors: int, columns: int, count: int
) -> set[int]:
    """Tiles at a time: as many as the cache holds with one thread's products, or all there are."""
    one = elements * machine.lanes * machine.width
    room = machine.cache // 2 // (one * (depth + vectors))
    most = -(-count // columns)
    return {columns * max(1, min(room // columns, most)), columns * most}


def _transforms(machine: Machine, m: int, depth: int, blocks: int, count: int) -> float:
    """Cycles of B^T d B and A^T M A over all tiles."""
    side = m + 2
    output, _, given = matrices(m)

    def operations(rows: list[list[object]]) -> int:
        return sum(sum(1 for f in row if f) for row in rows)

    read = 2 * side * operations(given) / machine.products + 2 * side**2 / machine.loads  # type: ignore[arg-type]
    write = (side + m) * operations(output) / machine.products + (side**2 + m * m) / machine.loads  # type: ignore[arg-type]
    return count * (depth * read + blocks * write)


def _fetch(machine: Machine, size: int) -> float:
    """Cycles to read `size` bytes from memory, less what stays in the cache.

    Added to the work: a prefetcher hides a part of them, other cores and programs take a part.
    """
    return max(0, size - machine.cache) / machine.bytes_per_cycle


def direct_plain(machine: Machine, window: Window, made: tuple[int, int, int]) -> Direct:
    """The register tile of a first layer, which reads pixels of single channels."""
    blocks, width = -(-made[0] // machine.lanes), made[2]

    def cost(tile: tuple[int, int]) -> float:
        vectors, columns = tile
        pixels = window.kernel[1] * columns
        if machine.lane_products:
            pixels = -(-window.reach(columns) // machine.lanes)
        products = window.kernel[1] * columns * vectors / machine.products
        loads = (pixels + window.kernel[1] * vectors) / machine.loads
        each = max(products, loads, window.kernel[1] * machine.latency) + _TURN
        return -(-blocks // vectors) * each * -(-width // columns)

    def fits(tile: tuple[int, int]) -> bool:
        vectors, columns = tile
        pixels = -(-window.reach(columns) // machine.lanes) if machine.lane_products else 1
        return columns * vectors + vectors + pixels <= machine.registers - 1

    vectors, columns = min((t for t in register_tiles(machine) if fits(t)), key=cost)
    return Direct(vectors, columns, cost((vectors, columns)) * made[1])


def depthwise_columns(machine: Machine, window: Window) -> int:
    """Pixels of a register tile: sums, one row of inputs and one of weights fit in the registers."""
    columns = 1
    while columns < 8:
        more = columns + 1
        if more + window.reach(more) + window.kernel[1] > machine.registers:
            break
        columns = more
    return columns


def dense_vectors(machine: Machine) -> int:
    """Channel blocks of a register tile of one pixel: enough sums that none is waited for."""
    return min(machine.latency * machine.products, machine.registers // 2 - 2)
