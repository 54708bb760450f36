"""The object files of a library for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.runtime.deploy.names import with_prefix
from graphopt.runtime.deploy.weights import Weights
from graphopt.runtime.gpu import tables
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.gpu.ptx import ptx_of
from graphopt.runtime.toolchain.toolchain import Toolchain

SOURCES = Path(__file__).parent / "c"


def gpu_objects(
    compiled: GpuCompiled,
    work: Path,
    prefix: str,
    tools: Toolchain,
    weights: Weights,
    *,
    flags: Sequence[str] = (),
) -> list[Path]:
    """The object files a library of the network is linked from.

    Args:
        compiled: the network.
        work: a folder with `deploy/c/` in it, whose names have the prefix; more is written there.
        prefix: what names of C start with.
        tools: for an ABI of the network's target, or for this machine.
        weights: of the file that was written.
        flags: added to the C compiler's.
    """
    kernels = kernels_text(compiled)
    texts = {p.name: p.read_text(encoding="utf-8") for p in sorted(SOURCES.iterdir())}
    texts["network.c"] = tables.network(compiled, weights, kernels)
    for name, text in texts.items():
        (work / name).write_text(with_prefix(text, prefix), encoding="utf-8")
    (work / "kernels.c").write_text(
        with_prefix(tables.TEXT_HEAD, prefix) + tables.text_file(kernels), encoding="utf-8"
    )
    names = ("network.c", "kernels.c", "gpu.c", f"{compiled.driver}.c", "ports.c", "weights.c")
    return [tools.compile(work / n, (work / n).with_suffix(".o"), flags) for n in names]


def kernels_text(compiled: GpuCompiled) -> str:
    """The kernels as the driver takes them: OpenCL C, or PTX."""
    if compiled.driver == "opencl":
        return compiled.source
    assert compiled.target.gpu is not None
    return ptx_of(compiled.source, compiled.target.gpu.arch)
