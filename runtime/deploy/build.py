"""Makes the files of a bundle that machines read: weights, libraries, header, runner."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy import tables
from graphopt.runtime.deploy.digest import Digest
from graphopt.runtime.deploy.names import with_prefix
from graphopt.runtime.deploy.weights import Weights, write_weights
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.gpu.objects import gpu_objects
from graphopt.runtime.toolchain.toolchain import Toolchain

SOURCES = Path(__file__).parent / "c"
LIBRARY, ARCHIVE, RUNNER = "libmodel.so", "libmodel.a", "run"
WEIGHTS, HEADER = "model.weights", "model.h"

_IN_LIBRARY = ("model.c", "pool.c", "ports.c", "weights.c")
_IN_RUNNER = ("run.c", "npy.c", "check.c")
FUNCTIONS = (
    *("create", "create_from", "destroy", "memory", "error"),
    *("thread_count", "bound_count", "device"),
    *("input_count", "output_count", "input", "output", "set_input", "get_output"),
    *("run", "run_profiled", "layer_count"),
)


@dataclass(frozen=True)
class Built:
    """What was made.

    Attributes:
        threads: how many run if nothing else is said.
        cores: what they are bound to; empty: nothing.
        left_out: files that could not be made, with the reason.
    """

    files: tuple[str, ...]
    weights: Weights
    threads: int
    cores: tuple[int, ...]
    left_out: dict[str, str]


def build(
    compiled: Compiled | GpuCompiled,
    folder: Path,
    prefix: str,
    tools: Toolchain,
    *,
    digests: Sequence[Digest] = (),
    tolerance: float = 0.0,
    flags: Sequence[str] = (),
) -> Built:
    """Writes weights, header, libraries and, where one can be linked, the runner.

    Args:
        compiled: the network.
        folder: exists; files in it are replaced.
        prefix: what names of C start with.
        tools: for an ABI of the network's target.
        digests: of the outputs for drawn inputs, for the runner's --check.
        tolerance: how far outputs may be from these.
        flags: added to the C compiler's.

    Raises:
        ToolchainError: the compiler or linker fails.
        UnsupportedError: the network has inputs or outputs of a type C has not.
    """
    weights = write_weights(compiled.program.constants, folder / WEIGHTS)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        work = Path(name)
        texts = {"expected.c": tables.expected(digests, tolerance)}
        library = library_objects(compiled, work, prefix, tools, weights, texts=texts, flags=flags)
        (folder / HEADER).write_bytes((work / HEADER).read_bytes())
        exports = [f"{prefix}_{f}" for f in FUNCTIONS]
        needed = libraries_of(compiled)
        tools.shared(library, folder / LIBRARY, exports=exports, libraries=needed)
        made, left_out = [WEIGHTS, HEADER, LIBRARY], _left_out(compiled, tools)
        if ARCHIVE not in left_out:
            tools.static_library(library, folder / ARCHIVE)
            made.append(ARCHIVE)
        if RUNNER not in left_out:
            own_part = compiled_sources(("expected.c", *_IN_RUNNER), work, tools, flags)
            tools.executable([*own_part, *library], folder / RUNNER, libraries=needed)
            made.append(RUNNER)
    threads = 1 if isinstance(compiled, GpuCompiled) else compiled.target.cores
    return Built(tuple(made), weights, threads, _cores(compiled), left_out)


def library_objects(
    compiled: Compiled | GpuCompiled,
    work: Path,
    prefix: str,
    tools: Toolchain,
    weights: Weights,
    *,
    texts: Mapping[str, str],
    flags: Sequence[str] = (),
) -> list[Path]:
    """The object files every library of the network is linked from.

    Args:
        compiled: the network.
        work: an empty folder; all of `c/`, `texts` and what is generated are written there.
        prefix: what names of C start with.
        tools: for an ABI of the network's target.
        weights: of the file that was written.
        texts: more files, by name.
        flags: added to the C compiler's.
    """
    found = {p.name: p.read_text(encoding="utf-8") for p in sorted(SOURCES.iterdir())}
    for file, text in {**found, **texts}.items():
        (work / file).write_text(with_prefix(text, prefix), encoding="utf-8")
    if isinstance(compiled, GpuCompiled):
        return gpu_objects(compiled, work, prefix, tools, weights, flags=flags)
    own = replace(
        compiled,
        symbols={k: with_prefix(f"nn_kernel_{i}", prefix) for i, k in enumerate(compiled.symbols)},
    )
    network = tables.network(own, weights, _cores(compiled), compiled.target.cores)
    (work / "network.c").write_text(with_prefix(network, prefix), encoding="utf-8")
    own.write_object(work / "kernels.o", tools.abi.triple)
    return [*compiled_sources(("network.c", *_IN_LIBRARY), work, tools, flags), work / "kernels.o"]


def libraries_of(compiled: Compiled | GpuCompiled) -> tuple[str, ...]:
    """What comes with the C library and is linked; a GPU's driver is opened at run time."""
    return ("m", "pthread", "dl") if isinstance(compiled, GpuCompiled) else ("m", "pthread")


def _cores(compiled: Compiled | GpuCompiled) -> tuple[int, ...]:
    """Processors the threads are bound to; none on a machine where others work too."""
    target = compiled.target
    if target.name == "host" or isinstance(compiled, GpuCompiled):
        return ()
    return tuple(n for c in target.computing for n in c.cpus)


def compiled_sources(
    names: Iterable[str], work: Path, tools: Toolchain, flags: Sequence[str] = ()
) -> list[Path]:
    """The object files of C or assembler files in `work`."""
    return [tools.compile(work / n, (work / n).with_suffix(".o"), flags) for n in names]


def _left_out(compiled: Compiled | GpuCompiled, tools: Toolchain) -> dict[str, str]:
    no_programs = tools.no_programs
    if isinstance(compiled, GpuCompiled):
        if tools.abi.libc == "musl":
            no_programs = "a static program cannot open the GPU's driver; take another ABI"
        elif no_programs:
            no_programs = "only an NDK links programs for Android: give one with ANDROID_NDK_HOME"
    if not tools.without_libc:
        return {RUNNER: no_programs} if no_programs else {}
    archive = "its objects would have to be linked by an NDK, and none was there to try it with"
    return {ARCHIVE: archive, RUNNER: no_programs}
