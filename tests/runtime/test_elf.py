"""What ELF files say they need, and where they load."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cross import LIBRARY, need, written

from graphopt.errors import LoadError
from graphopt.runtime.elf import Elf, Import, loads_on, read_elf
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

TX2 = target("tx2").abi()
MUSL = target("tx2").abi("linux-musl")
ANDROID = target("kirin990").abi("android")
GOOD = Elf(
    path=Path("libmodel.so"),
    arch="aarch64",
    kind="library",
    loader="",
    soname="libmodel.so",
    needed=("libc.so.6", "libm.so.6"),
    imports=(Import("malloc", "GLIBC_2.17"), Import("expf", "GLIBC_2.27")),
    exports=("model_run",),
    writes_code=False,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("zig")
    folder = tmp_path_factory.mktemp("elf")
    zig = toolchain_for(target("tx2"), use="zig")
    made = zig.compile(written(folder, "library.c", LIBRARY), folder / "library.o")
    return zig.shared([made], folder / "liblibrary.so")


def test_a_library_is_read(library: Path) -> None:
    elf = read_elf(library)
    assert (elf.arch, elf.kind, elf.soname, elf.loader) == ("aarch64", "library", library.name, "")
    assert {"answer", "natural"} <= set(elf.exports)
    assert Import("expf", "GLIBC_2.27") in elf.imports
    assert Import("pthread_create", "GLIBC_2.17") in elf.imports
    assert "libpthread.so.0" in elf.needed
    assert not elf.writes_code
    assert loads_on(elf, TX2) == []


def test_an_object_is_read(library: Path) -> None:
    elf = read_elf(library.with_name("library.o"))
    assert (elf.kind, elf.needed) == ("object", ())
    assert Import("expf") in elf.imports
    assert {"answer", "natural"} <= set(elf.exports)
    assert loads_on(elf, TX2) == ["is an object file, which nothing loads"]


@pytest.mark.skipif(sys.platform != "linux", reason="this Python is no ELF file")
def test_a_program_of_this_machine_is_read() -> None:
    elf = read_elf(Path(sys.executable).resolve())
    assert elf.kind == "program"
    assert "ld-" in elf.loader
    assert not any("GLIBC" in problem for problem in loads_on(elf, target("host").abi()))
    if elf.arch != "aarch64":
        assert loads_on(elf, TX2) == [f"is for {elf.arch}, and linux-gnu (glibc 2.27) is aarch64"]


@pytest.mark.parametrize(
    ("changes", "abi", "told"),
    [
        (
            {"imports": (Import("pthread_create", "GLIBC_2.34"), Import("f", "GLIBC_2.28"))},
            TX2,
            [
                "needs GLIBC_2.28 for f, and this is linux-gnu (glibc 2.27)",
                "needs GLIBC_2.34 for pthread_create, and this is linux-gnu (glibc 2.27)",
            ],
        ),
        ({"imports": (Import("x", "GLIBC_2.9"),)}, TX2, []),  # 9 < 27: numbers, not text
        ({"imports": (Import("x", "GLIBC_2.27.1"),)}, TX2, ["needs GLIBC_2.27.1 for x"]),
        ({"imports": (Import("x", "GLIBC_ABI_DT_RELR"),)}, TX2, ["needs GLIBC_ABI_DT_RELR for x"]),
        ({"imports": (Import("x", "GLIBC_PRIVATE"),)}, TX2, ["needs GLIBC_PRIVATE for x"]),
        ({"imports": (Import("x", "GCC_3.0"),)}, TX2, []),
        ({"imports": (Import("x", "LIBC"),)}, TX2, ["needs LIBC for x"]),
        (
            {"needed": ("libc.so.6", "libopenblas.so.0")},
            TX2,
            ["needs libopenblas.so.0, which linux-gnu (glibc 2.27) does not come with"],
        ),
        ({"needed": ()}, TX2, ["needs expf, malloc and names no library to find them in"]),
        ({"needed": (), "imports": (Import("hook", weak=True),)}, TX2, []),
        ({"arch": "x86_64"}, TX2, ["is for x86_64, and linux-gnu (glibc 2.27) is aarch64"]),
        (
            {"kind": "program", "loader": "/lib/ld-musl-aarch64.so.1"},
            TX2,
            ["wants the loader /lib/ld-musl-aarch64.so.1, and linux-gnu (glibc 2.27) has /lib/ld-l"],
        ),
        ({"kind": "program", "loader": "/lib/ld-linux-aarch64.so.1"}, TX2, []),
        ({"needed": ("libc.so",), "imports": (Import("malloc"),)}, MUSL, []),
        ({"needed": ("libc.so",)}, MUSL, ["needs GLIBC_2.17 for malloc", "needs GLIBC_2.27 for ex"]),
        (
            {"needed": ("libc.so", "libm.so"), "imports": (Import("expf"), Import("x", "LIBC"))},
            ANDROID,
            [],
        ),
        (
            {"needed": ("libc.so",), "imports": (Import("__errno_location"),)},
            ANDROID,
            ["needs __errno_location, which graphopt does not know to be in bionic"],
        ),
        (
            {"needed": ("libc.so",), "imports": (), "writes_code": True},
            ANDROID,
            ["changes its own code on loading (text relocations): compile with -fPIC"],
        ),
        (
            {"imports": tuple(Import(f"f{n}", "GLIBC_2.30") for n in range(5))},
            TX2,
            ["needs GLIBC_2.30 for f0, f1, f2 and 2 more"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_load_is_said(
    changes: dict[str, object], abi: object, told: list[str]
) -> None:
    problems = loads_on(replace(GOOD, **changes), abi)  # type: ignore[arg-type]
    assert len(problems) == len(told), problems
    for problem, start in zip(problems, told, strict=True):
        assert problem.startswith(start)


def test_the_good_one_loads() -> None:
    assert loads_on(GOOD, TX2) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="none: No such file"):
        read_elf(tmp_path / "none")
    with pytest.raises(LoadError, match="is not an ELF file"):
        read_elf(written(tmp_path, "text", "#!/bin/sh\n"))
    with pytest.raises(LoadError, match="is not an ELF file"):
        read_elf(written(tmp_path, "empty", ""))


def test_damaged_files_end_in_one_kind_of_error(library: Path, tmp_path: Path) -> None:
    whole = library.read_bytes()
    path = tmp_path / "damaged.so"
    draw = random.Random(0)
    read = 0
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[draw.randrange(len(data)) :]
        else:
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(min(len(data), 4096))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            loads_on(read_elf(path), TX2)
        except LoadError:
            continue
        read += 1
    assert 0 < read < 300
