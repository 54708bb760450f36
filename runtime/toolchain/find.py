"""Finds a toolchain for a board.

In this order, the first that serves:

- Android: an NDK given by the user; else zig, which has no C library of Android's, so that shared
  libraries can be linked (against names only, see `bionic`) and programs cannot.
- Linux: zig from PyPI, which links against the version of glibc that is asked for and brings musl;
  else Debian's cross compiler, if what it links asks for nothing newer than the board has.
- This machine: its own C compiler; else zig.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from graphopt.errors import ToolchainError, UsageError
from graphopt.runtime.board import Abi, Target
from graphopt.runtime.toolchain.toolchain import Toolchain

_NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
HOST = "host"
_OLDEST_API = "23"  # of Android: the first with stdout as a variable

# Uses what drivers and runners use, so that it asks for the same versions of symbols.
_PROBE = """
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
static void *work(void *p) { return p; }
int main(int argc, char **argv) {
    pthread_t thread;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_create(&thread, 0, work, argv);
    pthread_join(thread, 0);
    printf("%f", expf((float)argc) + powf(2.0f, (float)now.tv_sec));
    return 0;
}
"""


def toolchain_for(
    target: Target,
    abi: str | None = None,
    *,
    use: str | None = None,
    ndk: Path | None = None,
) -> Toolchain:
    """The first toolchain that builds for a board.

    Args:
        target: the board.
        abi: one of its ABIs by name; the first if not given. For a board's GPU also "host": this
            machine's.
        use: only this one: ndk, zig, gcc (a cross compiler) or cc (this machine's).
        ndk: where an Android NDK is; ANDROID_NDK_HOME if not given.

    Raises:
        UsageError: there is none; says what to install.
    """
    if target.gpu is not None and abi == HOST:
        from graphopt.runtime.host import this_machine

        # Its kernels run on any device of a driver, the host code on any processor.
        own = toolchain_for(this_machine(), use=use)
        return replace(own, abi=replace(own.abi, name=HOST))
    wanted = target.abi(abi)
    kinds = [k for k in _kinds(target, wanted) if use in (None, k)]
    if not kinds:
        known = ", ".join(_kinds(target, wanted))
        raise UsageError(f"{use!r} does not build for {wanted}; what may: {known}")
    reasons = []
    for kind in kinds:
        found = _ndk(wanted, target, ndk) if kind == "ndk" else _FINDERS[kind](wanted, target)
        if isinstance(found, Toolchain):
            return found
        reasons.append(found)
    raise UsageError(f"no C compiler for {target.name}, {wanted}: {'; '.join(reasons)}")


def _kinds(target: Target, abi: Abi) -> list[str]:
    if abi.libc == "bionic":
        return ["ndk", "zig"]
    if target.name == "host":
        return ["cc", "zig"]
    return ["zig", "gcc"] if abi.libc == "glibc" else ["zig"]


def _zig(abi: Abi, target: Target) -> Toolchain | str:
    try:
        found = version("ziglang")
    except PackageNotFoundError:
        return "ziglang is not installed (pip install ziglang)"
    libc = {"glibc": f"gnu.{abi.version}" if abi.version else "gnu", "bionic": "android"}
    triple = f"{abi.arch}-linux-{libc.get(abi.libc, 'musl')}"
    cpu = target.cpu.replace("-", "_")
    android = abi.libc == "bionic"
    return Toolchain(
        name=f"zig {found}",
        abi=abi,
        cc=(*_zig_command(), "cc", "-target", triple, f"-mcpu={cpu}", "-fno-sanitize=undefined")
        + (("-fno-stack-protector", "-mno-outline-atomics") if android else ()),
        ar=(*_zig_command(), "ar"),
        without_libc=android,
        no_programs=(
            "without an NDK no program can be linked for Android; build it for the ABI linux-musl "
            "(such programs are static and run there too), or give an NDK with ANDROID_NDK_HOME"
        )
        if android
        else "",
        no_static="zig has no static glibc: build static programs for the ABI linux-musl"
        if abi.libc == "glibc"
        else "",
    )


def _zig_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "ziglang")


def _ndk(abi: Abi, target: Target, given: Path | None) -> Toolchain | str:
    for name in _NDK_VARIABLES:
        if given is None and os.environ.get(name):
            given = Path(os.environ[name])
    if given is None:
        return "no NDK was given (ANDROID_NDK_HOME)"
    found = sorted(given.glob("toolchains/llvm/prebuilt/*/bin/clang"))
    if not found:
        raise UsageError(
            f"{given} is no Android NDK: no toolchains/llvm/prebuilt/*/bin/clang there"
        )
    api = max(abi.version or _OLDEST_API, _OLDEST_API, key=int)
    tune = f"-mtune={target.tune_cpu}"
    return Toolchain(
        name=f"NDK {given.name}",
        abi=abi,
        cc=(
            str(found[0]),
            f"--target={abi.arch}-linux-android{api}",
            f"-mcpu={target.cpu}",
            tune,
        ),
        ar=(str(found[0].with_name("llvm-ar")),),
    )


def _gcc(abi: Abi, target: Target) -> Toolchain | str:
    prefix = f"{abi.arch}-linux-gnu"
    path = shutil.which(f"{prefix}-gcc")
    if path is None:
        return f"{prefix}-gcc is not installed (apt install gcc-{prefix.replace('_', '-')})"
    made = Toolchain(
        name=f"{prefix}-gcc",
        abi=abi,
        cc=(path, f"-mcpu={target.cpu}"),
        ar=(shutil.which(f"{prefix}-ar") or "ar",),
    )
    problem = _probed(made)
    return problem or made


@cache
def _probed(toolchain: Toolchain) -> str:
    """What is wrong with what a toolchain links; empty if nothing is."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "probe.c"
        source.write_text(_PROBE, encoding="utf-8")
        try:
            made = toolchain.compile(source, source.with_suffix(".o"))
            toolchain.executable([made], source.with_suffix(""))
        except ToolchainError as error:
            return str(error)
    return ""


def _cc(abi: Abi, target: Target) -> Toolchain | str:  # noqa: ARG001 - as the other finders
    wanted = shlex.split(os.environ.get("CC", ""))  # may have options: "ccache gcc"
    names = wanted[:1] or ["cc", "gcc", "clang"]
    path = next((found for n in names if (found := shutil.which(n))), None)
    if path is None:
        return f"no {' or '.join(names)} here (apt install gcc)"
    tuned = "-march=native" if abi.arch == "x86_64" else "-mcpu=native"
    return Toolchain(name=Path(path).name, abi=abi, cc=(path, *wanted[1:], tuned), ar=("ar",))


_FINDERS: dict[str, Callable[[Abi, Target], Toolchain | str]] = {
    "zig": _zig,
    "gcc": _gcc,
    "cc": _cc,
}
