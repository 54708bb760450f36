"""Where something is to run, as written on the command line.

host                            this machine
tx2@emulated                    the board's instructions on this machine
tx2@ssh:nvidia@192.168.1.20     the board, through its ssh server
tx2@rpc:192.168.1.20:9090       the board, through TVM's RPC server
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.runtime.board import Target
from graphopt.runtime.targets import target

_KINDS = ("emulated", "ssh", "rpc")
# What ssh would read as an option, or a shell as more than a name, is no name.
_SSH = re.compile(r"(?:[\w.-]+@)?(?!-)[\w.-]+(?::\d{1,5})?")
_RPC = re.compile(r"(?!-)[\w.-]+:\d{1,5}")


@dataclass(frozen=True)
class Place:
    """A board and how to get there.

    Attributes:
        board: what is compiled for.
        kind: host, emulated, ssh or rpc.
        address: of the machine, for ssh and rpc.
    """

    board: Target
    kind: str
    address: str = ""

    def __str__(self) -> str:
        if self.kind == "host":
            return "host"
        return f"{self.board.name}@{self.kind}{':' if self.address else ''}{self.address}"


def read_place(text: str) -> Place:
    """The place that a text names.

    Raises:
        UsageError: it names none, or no known board.
    """
    name, at, rest = text.partition("@")
    if not at:
        if name.startswith(("rpc:", "ssh:")):
            raise UsageError(f"{text!r}: say which board is there, as in tx2@{text}")
        board = target(name)
        if name == "host":
            return Place(board, "host")
        raise UsageError(
            f"{name} is not here: {name}@emulated counts what it would execute, "
            f"{name}@ssh:USER@ADDRESS and {name}@rpc:ADDRESS:PORT run on the board"
        )
    board = target(name)
    if board.name == "host":
        raise UsageError(f"{text!r}: host is this machine; write host")
    kind, address = read_way(rest)
    if board.gpu is not None and kind != "ssh":
        raise UsageError(
            f"{text!r}: {board.name}'s GPU is neither emulated nor reached through TVM; {name}@ssh:... "
            "runs there, and its processor has a name of its own"
        )
    return Place(board, kind, address)


def read_way(text: str) -> tuple[str, str]:
    """(kind, address) of what comes after the board.

    Raises:
        UsageError: it is nothing of the kind.
    """
    kind, _, address = text.partition(":")
    if kind not in _KINDS:
        raise UsageError(f"{text!r}: after the @ comes {', '.join(_KINDS)}, not {kind!r}")
    _check_address(text, kind, address)
    return kind, address


def _check_address(text: str, kind: str, address: str) -> None:
    if kind == "emulated" and address:
        raise UsageError(f"{text!r}: nothing comes after emulated")
    if kind == "ssh" and not _SSH.fullmatch(address):
        raise UsageError(f"{text!r}: write ssh:USER@ADDRESS or ssh:USER@ADDRESS:PORT")
    if kind == "rpc" and not _RPC.fullmatch(address):
        raise UsageError(f"{text!r}: write rpc:ADDRESS:PORT, as in rpc:192.168.1.20:9090")
