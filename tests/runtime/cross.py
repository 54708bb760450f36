"""What tests of code for ARM need: the tools, and small programs in C."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from graphopt.runtime.places import cycles

SYSROOT = Path("/usr/aarch64-linux-gnu")

_MISSING = {
    "zig": lambda: find_spec("ziglang") is None,
    "gcc": lambda: shutil.which("aarch64-linux-gnu-gcc") is None,
    "cc": lambda: shutil.which("cc") is None,
    "qemu": lambda: shutil.which("qemu-aarch64") is None,
    "sysroot": lambda: not (SYSROOT / "lib" / "ld-linux-aarch64.so.1").exists(),
    "mca": lambda: cycles.tools() is None,
}
_INSTALL = {
    "zig": "pip install ziglang",
    "gcc": "apt install gcc-aarch64-linux-gnu",
    "cc": "apt install gcc",
    "qemu": "apt install qemu-user",
    "sysroot": "apt install libc6-arm64-cross",
    "mca": "apt install llvm-19",
}

# Threads and mathematics: what asks for new versions of symbols.
LIBRARY = """
#include <math.h>
#include <pthread.h>
static void *half(void *p) { *(float *)p *= 0.5f; return 0; }
int answer(void) {
    float value = 84.0f;
    pthread_t thread;
    pthread_create(&thread, 0, half, &value);
    pthread_join(thread, 0);
    return (int)value;
}
float natural(float x) { return expf(x); }
"""
PROGRAM = """
#include <stdio.h>
int answer(void);
float natural(float x);
int main(int argc, char **argv) {
    printf("%d %.3f %s\\n", answer(), natural(1.0f), argc > 1 ? argv[1] : "nothing");
    return 0;
}
"""
# Opens a library as an application would, and calls it.
LOADER = """
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\\n", dlerror()); return 1; }
    int (*answer)(void) = (int (*)(void))dlsym(library, "answer");
    printf("%d\\n", answer());
    return 0;
}
"""
# One dot product instruction: illegal on an ARMv8.0 core.
DOT = """
#include <arm_neon.h>
#include <stdio.h>
int main(void) {
    int32x4_t sum = vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(2), vdupq_n_s8(3));
    printf("%d\\n", vgetq_lane_s32(sum, 0));
    return 0;
}
"""


def need(*tools: str) -> None:
    """Skips the test without these tools; fails it where GRAPHOPT_REQUIRE_ARM says they must be."""
    missing = [f"{t} ({_INSTALL[t]})" for t in tools if _MISSING[t]()]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)}"
    if os.environ.get("GRAPHOPT_REQUIRE_ARM"):
        pytest.fail(f"{reason}, and GRAPHOPT_REQUIRE_ARM is set")
    pytest.skip(reason)


def written(folder: Path, name: str, text: str) -> Path:
    """A source file in a folder."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
