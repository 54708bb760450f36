"""Android's C library as far as generated programs use it, for machines without an NDK.

`bionic_headers/` declares functions that every 64-bit Android has (API level 23), with bionic's own
sizes and numbers, one declaration a line. Libraries with just these names and no code stand in for
Android's when a library is linked: an import that is not among them fails there, not on the phone.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HEADERS = Path(__file__).parent / "bionic_headers"

# What compilers call of their own accord.
_IMPLIED = ("__cxa_atexit", "__cxa_finalize", "__stack_chk_fail")
_HOMES = {"math.h": "m", "dlfcn.h": "dl"}  # the rest is in libc


@cache
def functions() -> dict[str, tuple[str, ...]]:
    """What is declared, by library: "c", "m", "dl"."""
    found: dict[str, list[str]] = {"c": list(_IMPLIED), "m": [], "dl": []}
    for header in sorted(HEADERS.rglob("*.h")):
        text = header.read_text(encoding="utf-8")
        names = re.findall(r"^(?!#|typedef|extern)\w[\w *]*?\b(\w+)\(.*\);$", text, re.M)
        found[_HOMES.get(header.name, "c")] += names
    return {library: tuple(sorted(names)) for library, names in found.items()}


@cache
def variables() -> tuple[str, ...]:
    """What is declared in libc that is no function."""
    texts = (h.read_text(encoding="utf-8") for h in sorted(HEADERS.rglob("*.h")))
    return tuple(sorted(n for t in texts for n in re.findall(r"^extern .*?(\w+);$", t, re.M)))


@cache
def symbols() -> frozenset[str]:
    """Every name a library may import."""
    return frozenset(n for names in functions().values() for n in names) | set(variables())


def stub(library: str) -> str:
    """Assembly that defines the names of "c", "m" or "dl" and nothing else."""
    lines = [".text"]
    for name in functions()[library]:
        lines += [f".globl {name}", f".type {name}, %function", f"{name}: ret"]
    lines.append(".data")
    for name in variables() if library == "c" else ():
        lines += [
            f".globl {name}",
            f".type {name}, %object",
            f".size {name}, 8",
            f"{name}: .xword 0",
        ]
    return "\n".join([*lines, ""])
