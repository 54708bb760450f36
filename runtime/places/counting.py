"""Counts what a bundle's layers execute, in qemu with a plugin of ours (c/counter.c)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphopt.errors import RunError
from graphopt.runtime.native import Layer, ProgramRunner
from graphopt.runtime.places.runner_output import profile_in
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

_SOURCE = Path(__file__).parent / "c" / "counter.c"


@dataclass(frozen=True)
class Block:
    """Instructions that run one after another."""

    address: int
    code: tuple[int, ...]


@dataclass(frozen=True)
class Counted:
    """A profiled run.

    Attributes:
        layers: of the network, with the milliseconds of the emulator.
        sections: of each layer, how often each of `blocks` ran.
        blocks: by number.
    """

    layers: Sequence[Layer]
    sections: Sequence[Mapping[int, int]]
    blocks: Mapping[int, Block]


def count(bundle: Path, *, timeout: float) -> Counted:
    """Runs a bundle once on one thread, after one run that is not counted.

    Raises:
        LoadError, UsageError, ToolchainError: see ProgramRunner and toolchain_for.
        RunError: it fails, or was made by a graphopt that did not mark layers.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        counts = Path(name) / "counts"
        plugin = _plugin(Path(name))
        runner = ProgramRunner(
            bundle, threads=1, cores=(), timeout=timeout, plugin=f"{plugin},out={counts}"
        )
        told = runner.execute(["--profile", "--warmup", "1"]).stdout
        layers = profile_in(told)
        sections, blocks = read_counts(counts.read_text(encoding="ascii"))
    if len(sections) != len(layers):
        raise RunError(
            f"{bundle} marks {len(sections)} layers of {len(layers)}: compile it with this graphopt"
        )
    return Counted(layers, sections, blocks)


def _plugin(folder: Path) -> Path:
    (folder / "counter.so").write_bytes(_plugin_bytes())
    return folder / "counter.so"


@cache
def _plugin_bytes() -> bytes:
    tools = toolchain_for(target("host"))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        made = tools.compile(_SOURCE, Path(name) / "counter.o")
        library = tools.shared(
            [made],
            Path(name) / "counter.so",
            exports=["qemu_plugin_version", "qemu_plugin_install"],
        )
        return library.read_bytes()


def read_counts(text: str) -> tuple[list[dict[int, int]], dict[int, Block]]:
    """(sections, blocks) of a file of the plugin's."""
    sections: list[dict[int, int]] = []
    blocks: dict[int, Block] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        if kind == "S":
            sections.append({})
        elif kind == "C":
            sections[-1][int(words[0])] = int(words[1])
        else:
            code = words[2] if len(words) > 2 else ""
            pieces = tuple(int(code[i : i + 8], 16) for i in range(0, len(code), 8))
            blocks[int(words[0])] = Block(int(words[1], 16), pieces)
    return sections, blocks
