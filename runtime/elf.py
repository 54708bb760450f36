"""Looks into ELF files: what a library or program needs, and whether a board can give it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import LoadError
from graphopt.runtime.board import Abi
from graphopt.runtime.toolchain import bionic

_MACHINES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64", "EM_ARM": "arm", "EM_386": "i386"}

# What is on every system with the C library, and where its loader is.
_LIBRARIES = {
    "glibc": r"lib(c|m)\.so\.6|lib(pthread|dl)\.so\.[02]|librt\.so\.1|ld-linux-\S+|libgcc_s\.so\.1",
    "musl": r"libc\.so|libc\.musl-\w+\.so\.1",
    "bionic": r"lib(c|m|dl|log|android)\.so",
}
_LOADERS = {
    "glibc": {"aarch64": "/lib/ld-linux-aarch64.so.1", "x86_64": "/lib64/ld-linux-x86-64.so.2"},
    "musl": {"aarch64": "/lib/ld-musl-aarch64.so.1", "x86_64": "/lib/ld-musl-x86_64.so.1"},
    "bionic": {"aarch64": "/system/bin/linker64", "x86_64": "/system/bin/linker64"},
}


@dataclass(frozen=True)
class Import:
    """A symbol that something else has to define; `version` is empty where none is asked for."""

    name: str
    version: str = ""
    weak: bool = False


@dataclass(frozen=True)
class Elf:
    """What an ELF file says about itself.

    Attributes:
        arch: aarch64, x86_64, or what ELF calls it.
        kind: object, library or program.
        loader: the path of the dynamic loader; empty in libraries and static programs.
        needed: libraries that have to be there, by soname.
        imports: symbols without a definition.
        exports: names that others can link to.
        writes_code: whether loading changes its code, which Android refuses.
    """

    path: Path
    arch: str
    kind: str
    loader: str
    soname: str
    needed: tuple[str, ...]
    imports: tuple[Import, ...]
    exports: tuple[str, ...]
    writes_code: bool


def read_elf(path: Path) -> Elf:
    """Reads an ELF file.

    Raises:
        LoadError: there is none, or it is not ELF, or damaged.
    """
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as stream:
            return _read(path, ELFFile(stream))
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # pyelftools trusts what it reads: a damaged file ends in anything
        raise LoadError(f"{path} is not an ELF file, or damaged: {error}") from error


def loads_on(elf: Elf, abi: Abi) -> list[str]:
    """Why a library or program does not load under an ABI; empty if it does.

    Checked: the instruction set, the loader, needed libraries, versions of symbols, and that
    something can define every import. Not checked: instructions the processor may not have.
    """
    if elf.arch != abi.arch:
        return [f"is for {elf.arch}, and {abi} is {abi.arch}"]
    if elf.kind == "object":
        return ["is an object file, which nothing loads"]
    return [*_loader(elf, abi), *_libraries(elf, abi), *_versions(elf, abi), *_code(elf, abi)]


def _loader(elf: Elf, abi: Abi) -> Iterator[str]:
    expected = _LOADERS.get(abi.libc, {}).get(abi.arch, elf.loader)
    if elf.loader and elf.loader != expected:
        yield f"wants the loader {elf.loader}, and {abi} has {expected}"


def _libraries(elf: Elf, abi: Abi) -> Iterator[str]:
    known = _LIBRARIES.get(abi.libc, ".*")
    for name in elf.needed:
        if not re.fullmatch(known, name):
            yield f"needs {name}, which {abi} does not come with"
    strong = [i for i in elf.imports if not i.weak]
    if strong and not elf.needed:
        yield f"needs {_some([i.name for i in strong])} and names no library to find them in"
    if abi.libc == "bionic":
        strange = [i.name for i in strong if not i.version and i.name not in bionic.symbols()]
        if strange:
            yield f"needs {_some(strange)}, which graphopt does not know to be in bionic"


def _versions(elf: Elf, abi: Abi) -> Iterator[str]:
    wanting: dict[str, list[str]] = {}
    for each in elf.imports:
        if not _satisfied(each.version, abi):
            wanting.setdefault(each.version, []).append(each.name)
    for version, names in sorted(wanting.items(), key=lambda item: _key(item[0])):
        yield f"needs {version} for {_some(names)}, and this is {abi}"


def _satisfied(version: str, abi: Abi) -> bool:
    if abi.libc != "glibc":
        return not version.startswith("GLIBC_")
    if not version.startswith("GLIBC_"):
        return version != "LIBC"  # bionic's
    numbers = version.removeprefix("GLIBC_")
    return re.fullmatch(r"[\d.]+", numbers) is not None and _key(numbers) <= _key(abi.version)


def _code(elf: Elf, abi: Abi) -> Iterator[str]:
    if elf.writes_code and abi.libc == "bionic":
        yield "changes its own code on loading (text relocations): compile with -fPIC"


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))


def _some(names: list[str]) -> str:
    listed = sorted(set(names))
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


def _read(path: Path, elf: Any) -> Elf:
    dynamic = next((s for s in elf.iter_segments() if s.header.p_type == "PT_DYNAMIC"), None)
    loader = next((s for s in elf.iter_segments() if s.header.p_type == "PT_INTERP"), None)
    tags = list(dynamic.iter_tags()) if dynamic is not None else []
    machine = elf.header.e_machine
    kind = elf.header.e_type
    sonames = [t.soname for t in tags if t.entry.d_tag == "DT_SONAME"]
    flags = [t.entry.d_val for t in tags if t.entry.d_tag == "DT_FLAGS_1"]
    # A position-independent program is a library to ELF; only this flag, or a loader, tells.
    is_program = kind == "ET_EXEC" or loader is not None or any(f & 0x8000000 for f in flags)
    symbols = list(_symbols(elf))
    return Elf(
        path=path,
        arch=_MACHINES.get(machine, str(machine).removeprefix("EM_").lower()),
        kind="object" if kind == "ET_REL" else "program" if is_program else "library",
        loader=loader.get_interp_name() if loader is not None else "",
        soname=sonames[0] if sonames else "",
        needed=tuple(t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"),
        imports=tuple(symbol for symbol, defined in symbols if not defined),
        exports=tuple(symbol.name for symbol, defined in symbols if defined),
        writes_code=any(
            t.entry.d_tag == "DT_TEXTREL" or (t.entry.d_tag == "DT_FLAGS" and t.entry.d_val & 4)
            for t in tags
        ),
    )


def _symbols(elf: Any) -> Iterator[tuple[Import, bool]]:
    """Global symbols with the version that is asked for, and whether they are defined here."""
    dynamic = elf.get_section_by_name(".dynsym")
    table = dynamic or elf.get_section_by_name(".symtab")
    if table is None:
        return
    needs = elf.get_section_by_name(".gnu.version_r") if dynamic else None
    indexes = elf.get_section_by_name(".gnu.version") if needs else None
    for number, symbol in enumerate(table.iter_symbols()):
        binding = symbol.entry.st_info.bind
        if not symbol.name or binding not in ("STB_GLOBAL", "STB_WEAK"):
            continue
        defined = symbol.entry.st_shndx != "SHN_UNDEF"
        version = "" if defined or indexes is None else _version(indexes, needs, number)
        yield Import(symbol.name, version, binding == "STB_WEAK"), defined


def _version(indexes: Any, needs: Any, number: int) -> str:
    index = indexes.get_symbol(number).entry.ndx
    found = needs.get_version(index & 0x7FFF) if isinstance(index, int) else None
    return found[1].name if found else ""
