"""The boards by name: those of boards/, this machine (`host`), and TOML files of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.runtime.board import Abi, Cluster, Gpu, Target
from graphopt.runtime.board_file import BOARDS, read_board
from graphopt.runtime.host import this_machine

__all__ = ["TARGETS", "Abi", "Cluster", "Gpu", "Target", "target"]


class _Boards(Mapping[str, Target]):
    """Every board that comes with graphopt, read when it is asked for."""

    def __getitem__(self, name: str) -> Target:
        if name not in _names():
            raise KeyError(name)
        return _built_in(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_names())

    def __len__(self) -> int:
        return len(_names())


TARGETS: Mapping[str, Target] = _Boards()


def target(name: str) -> Target:
    """The board called `name`, or described by the TOML file `name`.

    Raises:
        UsageError: there is none, or the file makes no sense.
    """
    if name.endswith(".toml"):
        return read_board(Path(name))
    if name not in TARGETS:
        from graphopt.named import unknown

        raise UsageError(f"{unknown('target', name, TARGETS)}; or give a .toml file of your own")
    return TARGETS[name]


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted([*(p.stem for p in BOARDS.glob("*.toml")), "host"]))


@cache
def _built_in(name: str) -> Target:
    return this_machine() if name == "host" else read_board(BOARDS / f"{name}.toml")
