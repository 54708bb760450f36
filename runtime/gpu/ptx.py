"""OpenCL C to PTX, by the clang that comes with zig: what a CUDA driver loads.

The PTX is for one processor and of a version its oldest driver knows; newer processors' drivers take
it as well.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from graphopt.errors import ToolchainError
from graphopt.runtime.gpu.source import clang_header
from graphopt.runtime.toolchain.toolchain import complaints

# CUDA 10.2, which JetPack 4.6 has, knows PTX up to 6.5.
VERSION = 65
_LONGEST_SECONDS = 600
_KERNEL = re.compile(r"KERNEL\((\d+), (\d+), (\d+)\) void (\w+)\(")


def ptx_of(source: str, arch: str) -> str:
    """The kernels as PTX for `arch`, sm_62 say.

    Raises:
        ToolchainError: clang refuses the text, or is not there.
    """
    words = ["-triple", "nvptx64-nvidia-cuda", "-target-cpu", arch]
    words += ["-target-feature", f"+ptx{VERSION}", "-O3", "-S", "-cl-ext=+cl_khr_fp16"]
    text = clang(source, words, "make PTX of the kernels", defines=("REAL_HALF",)).decode()
    for x, y, z, name in _KERNEL.findall(source):
        text = _with_size(text, name, f"{x}, {y}, {z}")
    return text


def _with_size(text: str, name: str, size: str) -> str:
    """PTX in which a kernel says how large its groups are: clang drops it, and registers depend on it."""
    start = text.index(f".entry {name}(")
    body = text.index("\n{", start)
    return f"{text[:body]}\n.reqntid {size}{text[body:]}"


def clang(source: str, words: list[str], what: str, *, defines: tuple[str, ...] = ()) -> bytes:
    """What clang makes of text in OpenCL C.

    Args:
        source: the text.
        words: what selects the processor and the kind of result, as clang's own compiler takes them.
        what: is being done, for errors.
        defines: names that are defined.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        (folder / "header.h").write_text(clang_header(), encoding="utf-8")
        (folder / "kernels.cl").write_text(source, encoding="utf-8")
        command = [sys.executable, "-m", "ziglang", "clang", "-cc1", *words]
        command += ["-x", "cl", "-cl-std=CL1.2", "-include", "header.h", "-w"]
        command += [*(f"-D{d}" for d in defines), "-o", "result", "kernels.cl"]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=_LONGEST_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(f"zig's clang could not {what}: {error}") from error
        if done.returncode:
            told = complaints(done.stderr) or f"it ended with {done.returncode}"
            raise ToolchainError(f"zig's clang could not {what}: {told}")
        return (folder / "result").read_bytes()
