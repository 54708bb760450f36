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


@dataclass(frozen=True)
class Shape:
    """All that decides how a convolution of images is best computed.

    Attributes:
        depth: channel blocks that are summed over, of one group.
        blocks: channel blocks of the result.
        size: (height, width) of the result.
    """

    window: Window
    depth: int
    blocks: int
    size: tuple[int, int]
    groups: int

    def __str__(self) -> str:
        """For files: "conv 3x3 s1x1 d1x1 g1: 8 to 16 blocks, 52x52"."""
        kernel, stride, spread = (
            f"{a}x{b}" for a, b in (self.window.kernel, self.window.stride, self.window.dilation)
        )
        high, wide = self.size
        return (
            f"conv {kernel} s{stride} d{spread} g{self.groups}: "
            f"{self.depth} to {self.blocks} blocks, {high}x{wide}"
        )

    @property
    def suits_winograd(self) -> bool:
        """Whether F(m, 3) computes it."""
        one = self.window.stride == self.window.dilation == (1, 1)
        return self.groups == 1 and self.window.kernel == (3, 3) and one


@cache
def conv(machine: Machine, shape: Shape) -> Direct | Winograd:
    """What the model takes for the fastest way."""
    best = direct(machine, shape.window, shape.depth, shape.blocks // shape.groups, shape.size)
    if shape.suits_winograd:
        fast = winograd(machine, shape.depth, shape.blocks, shape.size)
        if fast.cycles < best.cycles:
            return fast
    if shape.groups > 1 and (shape.blocks // shape.groups) % best.vectors:
        return Direct(1, best.columns, best.cycles)
    return best


def ways(machine: Machine, shape: Shape, count: int) -> list[Direct | Winograd]:
    """The `count` ways the model likes best, in its order; each algorithm has some."""
    per_group = shape.blocks // shape.groups
    found: list[list[Direct | Winograd]] = [
        sorted(
            _directs(machine, shape.window, shape.depth, per_group, shape.size),
            key=lambda d: d.cycles,
        )
    ]
    if shape.groups > 1:
        found[0] = [d for d in found[0] if per_group % d.vectors == 0]
    if shape.suits_winograd:
        for m in _SIZES[machine.dtype]:
            tiles_ = _winograds(machine, m, shape.depth, shape.blocks, shape.size)
            found.append(sorted(tiles_, key=lambda w: w.cycles))
    firsts = [way for each in found for way in each[: max(2, count // (2 * len(found)))]]
    rest = sorted({w for each in found for w in each} - set(firsts), key=lambda w: w.cycles)
    chosen = [*firsts, *rest][:count]
    return sorted(chosen, key=lambda w: w.cycles)


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


@cache
def rows_product(machine: Machine, rows: int, columns: int) -> tuple[int, int]:
    """(vectors of columns, rows) of the best register tile for a product of two computed matrices."""

    def cost(tile: tuple[int, int]) -> tuple[float, int]:
        return rows_product_cycles(machine, rows, columns, tile), -tile[0]

    return min(register_tiles(machine), key=cost)


def rows_product_cycles(machine: Machine, rows: int, columns: int, tile: tuple[int, int]) -> float:
    """What `lanes` of the elements that are summed over take."""
    vectors, high = tile
    full, rest = divmod(columns, vectors * machine.lanes)
    last = -(-rest // machine.lanes)
    one = full * row_cycles(machine, vectors, high, rows)
    return one + (row_cycles(machine, last, high, rows) if last else 0.0)


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
    return min(_directs(machine, window, depth, blocks, size), key=lambda d: (d.cycles, -d.vectors))


def _directs(
    machine: Machine, window: Window, depth: int, blocks: int, size: tuple[int, int]
) -> Iterator[Direct]:
    for vectors, columns in register_tiles(machine):
        way = Direct(vectors, columns, 0.0)
        cycles = direct_cycles(machine, window, way, depth, blocks, size)
        yield Direct(vectors, columns, cycles)


def direct_cycles(
    machine: Machine, window: Window, way: Direct, depth: int, blocks: int, size: tuple[int, int]
) -> float:
    """What a direct convolution takes with this register tile; see `direct`."""
    height, width = size
    taps = depth * window.kernel[0] * window.kernel[1]
    weight = taps * blocks * machine.lanes**2 * machine.width
    rows = -(-blocks // way.vectors) * height
    work = rows * taps * row_cycles(machine, way.vectors, way.columns, width)
    return work + fetch(machine, weight)


def winograd(machine: Machine, depth: int, blocks: int, size: tuple[int, int]) -> Winograd:
    """The best F(m, 3) for a convolution."""
    every = (w for m in _SIZES[machine.dtype] for w in _winograds(machine, m, depth, blocks, size))
    return min(every, key=lambda w: (w.cycles, w.m, w.strip))


def _winograds(
    machine: Machine, m: int, depth: int, blocks: int, size: tuple[int, int]
) -> Iterator[Winograd]:
    count = -(-size[0] // m) * -(-size[1] // m)
    for vectors, columns in register_tiles(machine):
        for strip in sorted(_strips(machine, (m + 2) ** 2, depth, vectors, columns, count)):
            way = Winograd(m, vectors, columns, strip, 0.0)
            cycles = winograd_cycles(machine, way, depth, blocks, count)
            yield Winograd(m, vectors, columns, strip, cycles)


def winograd_cycles(machine: Machine, way: Winograd, depth: int, blocks: int, count: int) -> float:
    """What F(m, 3) takes in this way, for `count` tiles of the result."""
    elements, strip, vectors = (way.m + 2) ** 2, way.strip, way.vectors
    weight = elements * depth * blocks * machine.lanes**2 * machine.width
    strips = -(-count // strip)
    groups = strips * (strip // way.columns) * -(-blocks // vectors)
    work = elements * depth * groups * tile_cycles(machine, vectors, way.columns)
    # Every strip reads all weights; what a strip is made of is read for every channel tile.
    tiles = elements * depth * strip * machine.lanes * machine.width
    turns = -(-blocks // vectors) + 1  # written once
    moved = strips * (fetch(machine, weight) + turns * fetch(machine, tiles))
    return work + _transforms(machine, way.m, depth, blocks, count) + moved


def _strips(
    machine: Machine, elements: int, depth: int, vectors: int, columns: int, count: int
) -> set[int]:
    """Tiles at a time: as many as the cache holds with one thread's products, or all there are."""
    one = elements * machine.lanes * machine.width
    room = machine.cache // 2 // (one * (depth + vectors))
    most = -(-count // columns)
    return {columns * max(1, min(room // columns, most)), columns * most}


@cache
def _transforms(machine: Machine, m: int, depth: int, blocks: int, count: int) -> float:
    """Cycles of B^T d B and A^T M A over all tiles."""
    side = m + 2
    output, _, given = matrices(m)

    def operations(rows: list[list[object]]) -> int:
        return sum(sum(1 for f in row if f) for row in rows)

    read = 2 * side * operations(given) / machine.products + 2 * side**2 / machine.loads  # type: ignore[arg-type]
    write = (side + m) * operations(output) / machine.products + (side**2 + m * m) / machine.loads  # type: ignore[arg-type]
    return count * (depth * read + blocks * write)


def fetch(machine: Machine, size: int) -> float:
    """Cycles to read `size` bytes from memory, less what stays in the cache.

    Added to the work: a prefetcher hides a part of them, other cores and programs take a part.
    """
    return max(0, size - machine.cache) / machine.bytes_per_cycle


def direct_plain(machine: Machine, window: Window, made: tuple[int, int, int]) -> Direct:
    """The register tile of a first layer, which reads pixels of single channels."""

    def cost(tile: tuple[int, int]) -> float:
        return plain_cycles(machine, window, tile, made)

    def fits(tile: tuple[int, int]) -> bool:
        vectors, columns = tile
        pixels = -(-window.reach(columns) // machine.lanes) if machine.lane_products else 1
        return columns * vectors + vectors + pixels <= machine.registers - 1

    vectors, columns = min((t for t in register_tiles(machine) if fits(t)), key=cost)
    return Direct(vectors, columns, cost((vectors, columns)))


def plain_cycles(
    machine: Machine, window: Window, tile: tuple[int, int], made: tuple[int, int, int]
) -> float:
    """What a first layer takes for each row of its kernel and each channel it reads.

    Args:
        machine: the processor.
        window: the kernel.
        tile: channel blocks and pixels of the register tile.
        made: (channels, height, width) of the result.
    """
    vectors, columns = tile
    pixels = window.kernel[1] * columns
    if machine.lane_products:
        pixels = -(-window.reach(columns) // machine.lanes)
    products = window.kernel[1] * columns * vectors / machine.products
    loads = (pixels + window.kernel[1] * vectors) / machine.loads
    each = max(products, loads, window.kernel[1] * machine.latency) + _TURN
    blocks, width = -(-made[0] // machine.lanes), made[2]
    return -(-blocks // vectors) * each * -(-width // columns) * made[1]


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
