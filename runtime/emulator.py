"""Runs programs built for a board on this machine, in qemu's user mode.

Whether a program computes the right thing can be told here, with the instructions the board's core
has and no others. How long it would take there cannot.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import RunError, UsageError
from graphopt.runtime.board import Target
from graphopt.runtime.elf import Elf, read_elf

# Where Debian's cross compiler has the C library of the other machine.
_SYSROOTS = ("/usr/{arch}-linux-gnu",)
_SYSROOT_VARIABLE = "GRAPHOPT_SYSROOT"
_LAST_LINES = 3


@dataclass(frozen=True)
class Finished:
    """A program that came to its end; texts that are not UTF-8 have replacement characters."""

    returncode: int
    stdout: str
    stderr: str


def emulate(
    program: Path,
    arguments: Sequence[str | Path] = (),
    *,
    target: Target,
    sysroot: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120.0,
    check: bool = True,
    plugin: str = "",
) -> Finished:
    """Runs a program as a board's core would.

    Args:
        program: a static ELF program, or a dynamic one.
        arguments: given to it.
        target: the board whose core is emulated.
        sysroot: the folder a dynamic program's loader and libraries are looked up in; found where
            Debian puts it, or in GRAPHOPT_SYSROOT, if not given.
        environment: the program's; nothing of this process's is passed on.
        timeout: in seconds, after which it is killed.
        check: whether an exit code other than 0 raises.
        plugin: qemu's words for one of its plugins: its path, its options after commas.

    Raises:
        UsageError: qemu or a sysroot is missing (says what to install), or knows no such core.
        LoadError: the program is no ELF file.
        RunError: it is for another machine, took too long, or failed.
    """
    elf = read_elf(program)
    if elf.kind != "program" or elf.arch != target.arch:
        raise RunError(
            f"{program} ({elf.kind}, {elf.arch}): {target.name} runs programs for {target.arch}"
        )
    command = [emulator(target), "-cpu", target.core]
    if elf.loader:
        command += ["-L", str(sysroot or _sysroot(elf))]
    command += ["-plugin", plugin] if plugin else []
    command += [str(program.resolve()), *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=dict(environment or {}),
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{program.name} was killed after {timeout:g} s in qemu") from error
    except OSError as error:
        raise RunError(f"{command[0]}: {error.strerror}") from error
    finished = Finished(done.returncode, _text(done.stdout), _text(done.stderr))
    if "unable to find CPU model" in finished.stderr:
        raise UsageError(
            f"{command[0]} does not know the core {target.core} of {target.name}; a newer qemu may"
        )
    if check and done.returncode:
        raise RunError(_failure(program, target, finished))
    return finished


def emulator(target: Target) -> str:
    """The path of qemu for a board's instruction set.

    Raises:
        UsageError: it is not installed.
    """
    name = f"qemu-{target.arch}"
    path = shutil.which(name) or shutil.which(f"{name}-static")
    if path is None:
        raise UsageError(f"running programs for {target.name} needs {name} (apt install qemu-user)")
    return path


def _sysroot(elf: Elf) -> Path:
    places = [os.environ.get(_SYSROOT_VARIABLE, ""), *(s.format(arch=elf.arch) for s in _SYSROOTS)]
    for place in places:
        if place and (Path(place) / elf.loader.lstrip("/")).exists():
            return Path(place)
    raise UsageError(
        f"{elf.path.name} needs {elf.loader}, which is not here: apt install libc6-arm64-cross, or "
        f"name a folder that has it with {_SYSROOT_VARIABLE}"
    )


def _failure(program: Path, target: Target, done: Finished) -> str:
    told = "; ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
    why = f"ended with {done.returncode}"
    if done.returncode < 0:
        why = f"was ended by {signal.Signals(-done.returncode).name}"
    if done.returncode == -signal.SIGILL:
        why += f" (an instruction that {target.core} does not have)"
    return f"{program.name} {why} on {target.name} in qemu{': ' if told else ''}{told}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
