"""This machine as a target: what its processor can do is found when it is asked for.

On Linux the facts come from /proc/cpuinfo and sysfs; elsewhere only the baseline of the instruction
set is assumed. Peaks follow from the features; the memory's bandwidth cannot be read and is assumed.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from graphopt.runtime.board import PRECISIONS, Abi, Cluster, Target

_ASSUMED_GIGABYTES_PER_SECOND = 20.0  # two channels of DDR4, less what others take
_ASSUMED_GIGAHERTZ = 2.0

# The kernel's names of what matters to kernels -> LLVM's.
_X86_FEATURES = {
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "popcnt": "popcnt",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "avx_vnni": "avxvnni",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
}
_ARM_FEATURES = {
    "asimd": "neon",
    "fp": "fp-armv8",
    "crc32": "crc",
    "atomics": "lse",
    "asimdrdm": "rdm",
    "lrcpc": "rcpc",
    "asimdhp": "fullfp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
# "CPU part" of Arm Ltd.'s own cores -> LLVM's name, and vector pipes of 128 bits.
_ARM_CORES = {
    0xD03: ("cortex-a53", 1),
    0xD05: ("cortex-a55", 1),
    0xD07: ("cortex-a57", 1),
    0xD08: ("cortex-a72", 1),
    0xD0B: ("cortex-a76", 2),
    0xD0C: ("neoverse-n1", 2),
    0xD40: ("neoverse-v1", 4),
    0xD49: ("neoverse-n2", 2),
    0xD4F: ("neoverse-v2", 4),
}
# Microarchitecture levels of the x86-64 psABI, the highest first: the kernel's names of what each adds.
_X86_LEVELS = {
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe",
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
}


def this_machine() -> Target:
    """The processor graphopt runs on."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    return described(cpuinfo, platform.machine(), _abi())


def described(cpuinfo: str, machine: str, abi: Abi) -> Target:
    """The target that a text of /proc/cpuinfo describes.

    Args:
        cpuinfo: the text; empty where there is none.
        machine: the instruction set, as `platform.machine` has it.
        abi: what its programs link against.
    """
    facts = _facts(cpuinfo)
    arm = machine in ("aarch64", "arm64")
    names, baseline = (_ARM_FEATURES, ["asimd", "fp"]) if arm else (_X86_FEATURES, [])
    flags = (facts.get("features" if arm else "flags") or "").split() or baseline
    features = [f"+{llvm}" for kernel, llvm in names.items() if kernel in flags]
    if not arm:
        features.insert(0, "+sse2")
    core, macs = _arm(facts, features) if arm else (_x86_level(set(flags)), _x86_macs(features))
    wide = 512 if "+avx512f" in features else 256 if "+avx2" in features else 128
    missing = [p for p in PRECISIONS if p not in macs]
    return Target(
        name="host",
        description=f"this machine: {facts.get('model name') or core}",
        cpu=core,
        tune_cpu=core,
        features=tuple(features),
        vector_registers=32 if arm or wide == 512 else 16,
        vector_bits=wide,
        gigabytes_per_second=_ASSUMED_GIGABYTES_PER_SECOND,
        default_precision="float32",
        unsupported={p: f"this processor has no {p} arithmetic; use float32" for p in missing},
        abis=(abi,),
        clusters=(
            Cluster(
                core=core,
                cpus=_cpus(),
                gigahertz=_gigahertz(facts),
                macs_per_cycle=macs,
                l1d_bytes=_cache(1, 32 << 10),
                l2_bytes=_cache(2, 512 << 10),
            ),
        ),
        l3_bytes=_cache(3, 0),
        memory_bytes=_memory(),
    )


def _facts(cpuinfo: str) -> dict[str, str]:
    """The keys of the first processor, in lower case."""
    pairs = (line.partition(":") for line in cpuinfo.strip().split("\n\n")[0].splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _x86_level(flags: set[str]) -> str:
    """The highest level that is there in full: a virtual machine may hide parts of one."""
    level = "x86-64"
    for name, added in reversed(_X86_LEVELS.items()):
        if not flags.issuperset(added.split()):
            break
        level = name
    return level


def _x86_macs(features: list[str]) -> dict[str, int]:
    """Peaks of a core with two vector pipes, which nearly all have.

    Without a dot product (VNNI), 4 products take three instructions: multiply, widen, add.
    """
    wide = 16 if "+avx512f" in features else 8 if "+avx2" in features else 4
    fused = "+fma" in features or wide == 16
    macs = {"float32": wide * 2 if fused else wide}
    if "+avx512fp16" in features:
        macs["float16"] = 64
    dot = "+avx512vnni" in features or "+avxvnni" in features
    macs["int8"] = wide * 4 * 2 if dot else wide * 4 * 2 // 3
    return macs


def _arm(facts: dict[str, str], features: list[str]) -> tuple[str, dict[str, int]]:
    try:
        part = int(facts.get("cpu part", "0"), 16)
    except ValueError:
        part = 0
    core, pipes = _ARM_CORES.get(part, ("generic", 2))
    macs = {"float32": 4 * pipes}
    if "+fullfp16" in features:
        macs["float16"] = 8 * pipes
    # SMLAL goes down one pipe only, SDOT down all of them.
    macs["int8"] = 16 * pipes if "+dotprod" in features else 8
    return core, macs


def _cpus() -> tuple[int, ...]:
    """One processor of each core that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    found: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = _sysfs(f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        found.setdefault(siblings, cpu)
    return tuple(found.values())


def _gigahertz(facts: dict[str, str]) -> float:
    """The highest clock, or the present one in a virtual machine, which does not tell."""
    highest = _sysfs("cpu0/cpufreq/cpuinfo_max_freq")
    if highest.isdigit():
        return int(highest) / 1e6
    try:
        return float(facts.get("cpu mhz", "")) / 1e3
    except ValueError:
        return _ASSUMED_GIGAHERTZ


def _cache(level: int, default: int) -> int:
    """Bytes of the first core's cache of this level."""
    for index in range(8):
        folder = f"cpu0/cache/index{index}"
        if _sysfs(f"{folder}/level") != str(level) or _sysfs(f"{folder}/type") == "Instruction":
            continue
        size = _sysfs(f"{folder}/size")
        if size.removesuffix("K").isdigit():
            return int(size.removesuffix("K")) << 10
    return default


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _sysfs(name: str) -> str:
    try:
        return (Path("/sys/devices/system/cpu") / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _abi() -> Abi:
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    system = platform.system()
    if system != "Linux":
        return Abi(system.lower(), f"{machine}-unknown-{system.lower()}", "system")
    libc, version = platform.libc_ver()
    if libc == "glibc":
        return Abi("linux-gnu", f"{machine}-unknown-linux-gnu", "glibc", version)
    return Abi("linux-musl", f"{machine}-unknown-linux-musl", "musl")
