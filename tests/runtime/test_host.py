"""This machine as a target: processors described as Linux describes them."""

from __future__ import annotations

import pytest

from graphopt.runtime.board import Abi
from graphopt.runtime.host import described, this_machine

GNU = Abi("linux-gnu", "x86_64-unknown-linux-gnu", "glibc", "2.36")
ARM = Abi("linux-gnu", "aarch64-unknown-linux-gnu", "glibc", "2.31")
V2 = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def _x86(flags: str) -> str:
    return f"processor\t: 0\nmodel name\t: A CPU\ncpu MHz\t\t: 2600.0\nflags\t\t: {flags}\n\nprocessor: 1\n"


def _arm(part: str, features: str) -> str:
    return f"processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"


@pytest.mark.parametrize(
    ("flags", "cpu", "bits", "float32", "int8"),
    [
        ("fpu sse sse2", "x86-64", 128, 4, 10),
        (V2, "x86-64-v2", 128, 4, 10),
        (V3, "x86-64-v3", 256, 16, 21),
        (V3.replace("movbe", ""), "x86-64-v2", 256, 16, 21),
        (f"{V3} avx_vnni", "x86-64-v3", 256, 16, 64),
        (V4, "x86-64-v4", 512, 32, 42),
        (V4.replace("movbe", ""), "x86-64-v2", 512, 32, 42),
        (f"{V4} avx512_vnni", "x86-64-v4", 512, 32, 128),
    ],
)
def test_x86_by_its_flags(flags: str, cpu: str, bits: int, float32: int, int8: int) -> None:
    host = described(_x86(flags), "x86_64", GNU)
    peaks = host.computing[0].macs_per_cycle
    assert (host.cpu, host.vector_bits) == (cpu, bits)
    assert (peaks["float32"], peaks["int8"]) == (float32, int8)
    assert host.vector_registers == (32 if bits == 512 else 16)
    assert "float16" in host.unsupported
    assert host.description == "this machine: A CPU"


@pytest.mark.parametrize(
    ("part", "features", "core", "peaks"),
    [
        ("0xd07", "fp asimd crc32", "cortex-a57", {"float32": 4, "int8": 8}),
        (
            "0xd0b",
            "fp asimd asimdhp asimddp",
            "cortex-a76",
            {"float32": 8, "float16": 16, "int8": 32},
        ),
        ("0xfff", "fp asimd", "generic", {"float32": 8, "int8": 8}),
    ],
)
def test_arm_by_its_part(part: str, features: str, core: str, peaks: dict[str, int]) -> None:
    host = described(_arm(part, features), "aarch64", ARM)
    assert (host.cpu, host.computing[0].macs_per_cycle) == (core, peaks)
    assert host.has("neon")
    assert host.has("dotprod") == ("asimddp" in features)


def test_nothing_is_assumed_where_nothing_is_told() -> None:
    assert described("", "x86_64", GNU).features == ("+sse2",)
    assert described("", "arm64", ARM).features == ("+neon", "+fp-armv8")


def test_this_machine() -> None:
    host = this_machine()
    assert host.cores >= 1
    assert host.precision("float32") == "float32"
    assert host.memory_bytes is None or host.memory_bytes > 1 << 28
