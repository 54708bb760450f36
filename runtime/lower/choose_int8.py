"""The register tiles of integer convolutions: the model of `choose.py`, for bytes.

What a tile costs for 16 channels of one tap is the most of what multipliers, load units and the
decoder take; what follows the sums counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from graphopt.runtime.kernels.conv import Window, tiles
from graphopt.runtime.kernels.simd import Machine

_BLOCK = 16
_TURN = 2.0  # cycles of one turn of the machine loop beside its vector instructions
_STORE = 2.0  # instructions to scale, bound and round four results, per result
_ISSUE = 3  # instructions per cycle, of the smallest core


@dataclass(frozen=True)
class Tile:
    """A register tile: int32 vectors of output channels by pixels."""

    vectors: int
    columns: int


@cache
def conv(
    machine: Machine,
    window: Window,
    depth: int,
    out: int,
    size: tuple[int, int],
    groups: int = 1,
) -> Tile:
    """The best register tile.

    Args:
        machine: the processor.
        window: the kernel.
        depth: channels summed over, of one group.
        out: output channels of all groups.
        size: (height, width) of the result.
        groups: how many there are.
    """
    fitting = [
        t
        for t in _tiles(machine)
        if groups == 1 or out // groups % (t.vectors * machine.lanes) == 0
    ]

    def cost(tile: Tile) -> float:
        return cycles(machine, window, depth, out, size, tile)

    return min(fitting, key=lambda t: (cost(t), -t.vectors))


def cycles(
    machine: Machine, window: Window, depth: int, out: int, size: tuple[int, int], tile: Tile
) -> float:
    """What a convolution takes with this register tile, weights at hand; see `conv`."""
    taps = window.kernel[0] * window.kernel[1]
    rows = -(-out // (tile.vectors * machine.lanes)) * size[0]
    return rows * sum(
        count * _tile(machine, tile.vectors, columns, depth, taps)
        for _, count, columns in tiles(size[1], tile.columns)
    )


def depthwise_columns(machine: Machine) -> int:
    """Pixels of a register tile: half of the registers hold sums."""
    return max(1, min(8, machine.registers * machine.lanes // (2 * _BLOCK)))


def _tiles(machine: Machine) -> Iterator[Tile]:
    for vectors in (1, 2, 4, 8):
        for columns in range(1, 13):
            each = vectors * (4 if machine.integers == "smlal" else 1)
            beside = {"smlal": columns + 4, "sdot": columns + 1, "vnni": vectors + 2}
            needed = columns * each + beside.get(machine.integers, vectors + 2)
            if needed < machine.registers:
                yield Tile(vectors, columns)


def _tile(machine: Machine, vectors: int, columns: int, depth: int, taps: int) -> float:
    """Cycles of one register tile, with all that is summed over."""
    whole, rest = divmod(depth, _BLOCK)
    outputs = vectors * machine.lanes
    per = [_block(machine, vectors, columns, _BLOCK)] * whole
    if rest:
        per.append(_block(machine, vectors, columns, rest))
    return taps * sum(per) + columns * outputs * _STORE / min(machine.products, 2)


def _block(machine: Machine, vectors: int, columns: int, channels: int) -> float:
    """Cycles of one tap for up to 16 channels."""
    groups = -(-channels // 4)
    if machine.integers == "smlal":
        count = columns * vectors * 4
        products = count * (2 if channels > _BLOCK // 2 else 1) / machine.products
        loads = columns + vectors * 4
        issued = (products * machine.products + count + loads) / _ISSUE
        return max(products, loads / machine.loads, issued) + _TURN
    count = columns * vectors * groups
    if machine.integers == "sdot":
        loads, beside = columns + vectors * groups, 0
    elif machine.integers == "vnni":
        loads, beside = (columns + vectors) * groups, columns * groups
    else:
        count, loads, beside = count * 8, (columns + vectors) * channels, 0
    wait = groups * machine.latency if count < machine.latency * machine.products * groups else 0
    return max((count + beside) / machine.products, loads / machine.loads, wait) + _TURN
