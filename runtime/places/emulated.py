"""What a bundle's layers execute on a board's core, counted on this machine."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import RunError
from graphopt.runtime.board import Target
from graphopt.runtime.native import read_manifest
from graphopt.runtime.places.counting import count
from graphopt.runtime.places.cycles import INSTALL, estimate, tools
from graphopt.runtime.places.figures import CountedLayer, Counts

_LONGEST_SECONDS = 7200.0


def counts_of(bundle: Path, board: Target) -> Counts:
    """Instructions, and where LLVM's tools are installed estimated cycles, of every layer.

    Raises:
        LoadError, UsageError, ToolchainError, RunError: see `count` and `estimate`.
    """
    counted = count(bundle, timeout=_LONGEST_SECONDS)
    instructions = [
        sum(times * len(counted.blocks[n].code) for n, times in section.items())
        for section in counted.sections
    ]
    cycles: list[float | None] = [None] * len(counted.layers)
    by = INSTALL
    if tools() is not None:
        found = estimate(counted.sections, counted.blocks, board)
        cycles, by = list(found.cycles), found.by
    rate = _rate(board, str(read_manifest(bundle)["precision"]))
    layers = [
        CountedLayer(layer.name, layer.macs, n, c, layer.macs / rate)
        for layer, n, c in zip(counted.layers, instructions, cycles, strict=True)
    ]
    return Counts(board.core, layers, by)


def _rate(board: Target, precision: str) -> float:
    """Multiply-accumulates a cycle of the fastest core."""
    first = precision.split()[0]  # "int8 and float32"
    found = board.computing[0].macs_per_cycle.get(first)
    if not found:
        raise RunError(f"{board.name} says nothing of multiply-accumulates in {first}")
    return float(found)
