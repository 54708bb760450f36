"""Programs for ARM, run here: what they print, how they end, what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cross import DOT, SYSROOT, need, written

from graphopt.errors import LoadError, RunError, UsageError
from graphopt.runtime.emulator import emulate
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

TX2 = target("tx2")
ENDINGS = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    if (argc < 2) { printf("%s\\n", getenv("HOME") ? "HOME" : "no HOME"); return 0; }
    if (!strcmp(argv[1], "getenv")) { printf("%s\\n", getenv(argv[2])); return 0; }
    if (!strcmp(argv[1], "bytes")) { fwrite("\\xff\\n", 1, 2, stdout); return 0; }
    if (!strcmp(argv[1], "wait")) for (;;);
    if (!strcmp(argv[1], "abort")) abort();
    fprintf(stderr, "line one\\nno such input\\n");
    return 7;
}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a program from C, for tx2 if not said otherwise."""
    need("zig", "qemu", "sysroot")

    def made(text: str, board: str = "tx2") -> Path:
        folder = tmp_path_factory.mktemp("program")
        zig = toolchain_for(target(board), "linux-gnu", use="zig")
        compiled = zig.compile(written(folder, "main.c", text), folder / "main.o")
        return zig.executable([compiled], folder / "main")

    return made


@pytest.fixture(scope="module")
def program(build: Callable[..., Path]) -> Path:
    return build(ENDINGS)


def test_what_a_program_prints_and_sees(program: Path) -> None:
    done = emulate(program, target=TX2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no HOME\n", "")
    done = emulate(program, ["getenv", "SPELL"], target=TX2, environment={"SPELL": "abra"})
    assert done.stdout == "abra\n"
    assert emulate(program, ["bytes"], target=TX2).stdout == "\ufffd\n"
    assert emulate(program, target=TX2, sysroot=SYSROOT).returncode == 0


def test_how_a_program_ends(program: Path) -> None:
    with pytest.raises(RunError, match="main ended with 7 on tx2 in qemu: line one; no such input"):
        emulate(program, ["fail"], target=TX2)
    assert emulate(program, ["fail"], target=TX2, check=False).returncode == 7
    with pytest.raises(RunError, match="main was ended by SIGABRT on tx2"):
        emulate(program, ["abort"], target=TX2)
    with pytest.raises(RunError, match="main was killed after 0.5 s in qemu"):
        emulate(program, ["wait"], target=TX2, timeout=0.5)


def test_a_core_has_its_own_instructions_and_no_others(build: Callable[..., Path]) -> None:
    program = build(DOT, "kirin990")
    assert emulate(program, target=target("kirin990")).stdout == "24\n"
    assert emulate(program, target=target("rpi5")).stdout == "24\n"
    with pytest.raises(RunError, match="SIGILL .an instruction that cortex-a57 does not have"):
        emulate(program, target=TX2)


def test_a_core_that_qemu_does_not_know(program: Path) -> None:
    core = replace(TX2.computing[0], core="cortex-z1")
    with pytest.raises(UsageError, match="does not know the core cortex-z1 of tx2; a newer qemu"):
        emulate(program, target=replace(TX2, clusters=(core,)))


def test_what_is_missing_is_said(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.runtime.emulator._SYSROOTS", ())
    with pytest.raises(
        UsageError, match=r"main needs /lib/ld-linux-aarch64.so.1, .*apt install lib"
    ):
        emulate(program, target=TX2)
    monkeypatch.setenv("GRAPHOPT_SYSROOT", str(SYSROOT))
    assert emulate(program, target=TX2).stdout == "no HOME\n"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"for tx2 needs qemu-aarch64 \(apt install qemu-user\)"):
        emulate(program, target=TX2)


def test_what_is_no_program_of_the_board(program: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"main.o \(object, aarch64\): tx2 runs programs for aarch64"
    ):
        emulate(program.with_name("main.o"), target=TX2)
    with pytest.raises(LoadError, match="is not an ELF file"):
        emulate(written(tmp_path, "script", "#!/bin/sh\n"), target=TX2)
    with pytest.raises(RunError, match="tx2 runs programs for aarch64"):
        emulate(Path(sys.executable).resolve(), target=TX2)
