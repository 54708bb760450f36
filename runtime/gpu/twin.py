"""A bundle for a GPU, tried out on whatever device this machine has.

The twin of a bundle has the same kernels, the same host code and the same weights, and is linked for
this machine. Where there is no CUDA, the kernels that PTX is made of run as OpenCL C.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.runtime.deploy.bundle import make_bundle
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.native import ProgramRunner
from graphopt.runtime.run import Outputs
from graphopt.runtime.toolchain.find import HOST, toolchain_for

# In a process of its own: a driver may bring an LLVM that is not TVM's.
_PROBES = {
    "opencl": """
import ctypes, sys
try:
    cl = ctypes.CDLL("libOpenCL.so.1")
except OSError as error:
    sys.exit(f"{error}")
platforms, count = (ctypes.c_void_p * 16)(), ctypes.c_uint(0)
device, name = ctypes.c_void_p(), ctypes.create_string_buffer(160)
if cl.clGetPlatformIDs(16, platforms, ctypes.byref(count)) or not count.value:
    sys.exit("no OpenCL driver is installed")
for kind in (ctypes.c_ulong(4), ctypes.c_ulong(0xFFFFFFFF)):
    for platform in map(ctypes.c_void_p, platforms[: count.value]):
        if cl.clGetDeviceIDs(platform, kind, 1, ctypes.byref(device), None) == 0:
            cl.clGetDeviceInfo(device, 0x102B, ctypes.c_size_t(159), name, None)
            print(name.value.decode(errors="replace"))
            sys.exit(0)
sys.exit("OpenCL finds no device")
""",
    "cuda": """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.exit(f"{error}")
count, name = ctypes.c_int(0), ctypes.create_string_buffer(160)
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
    sys.exit("CUDA finds no device")
cuda.cuDeviceGetName(name, 159, 0)
print(name.value.decode(errors="replace"))
""",
}
_NAMES = {"opencl": "OpenCL", "cuda": "CUDA"}


@dataclass(frozen=True)
class Device:
    """What a driver finds on this machine.

    Attributes:
        name: of the device; empty where there is none.
        reason: why there is none.
    """

    name: str
    reason: str = ""


def device_here(driver: str) -> Device:
    """The device that a library for this machine would run on."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBES[driver]],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Device("", lines[-1] if lines else f"its driver ended with {done.returncode}")
    return Device(done.stdout.strip())


@contextmanager
def twin_of(compiled: GpuCompiled, reference: Outputs, tolerance: float) -> Iterator[Twin]:
    """The twin of a bundle, built in a temporary folder.

    Args:
        compiled: the network.
        reference: what its outputs for the drawn inputs should be.
        tolerance: how far they may be from these.

    Raises:
        UsageError: this machine has no device to run it.
        ToolchainError: it cannot be built here.
    """
    driver, name = _driver_here(compiled.driver)
    own = replace(compiled, driver=driver)
    tools = toolchain_for(compiled.target, HOST)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        place = Path(folder) / "twin"
        make_bundle(own, place, name="twin", tools=tools, reference=reference, tolerance=tolerance)
        yield Twin(ProgramRunner(place), name)


@dataclass(frozen=True)
class Twin:
    """What runs a twin.

    Attributes:
        name: of the device and of how it came to run the kernels; without commas.
    """

    runner: ProgramRunner
    name: str


def _driver_here(wanted: str) -> tuple[str, str]:
    """The driver a twin is for, and what its runs are called."""
    found = device_here(wanted)
    if found.name:
        how = f"the same kernels and host code built for this machine ({_NAMES[wanted]}"
        return wanted, _plain(f"{how}: {found.name})")
    if wanted == "opencl":
        raise UsageError(f"there is no OpenCL device on this machine: {found.reason}")
    other = device_here("opencl")
    if not other.name:
        raise UsageError(
            f"there is neither a CUDA device on this machine ({found.reason}) nor one of OpenCL "
            f"({other.reason})"
        )
    return "opencl", _plain(
        f"the same kernels in OpenCL C on this machine ({other.name}); the PTX made of them was not "
        f"run: {found.reason}"
    )


def _plain(text: str) -> str:
    return text.replace(",", ";")
