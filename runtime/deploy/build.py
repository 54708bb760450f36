"""Makes the files of a bundle that machines read: weights, libraries, header, runner."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy import tables
from graphopt.runtime.deploy.digest import Digest
from graphopt.runtime.deploy.names import with_prefix
from graphopt.runtime.deploy.weights import Weights, write_weights
from graphopt.runtime.toolchain.toolchain import Toolchain

SOURCES = Path(__file__).parent / "c"
LIBRARY, ARCHIVE, RUNNER = "libmodel.so", "libmodel.a", "run"
WEIGHTS, HEADER = "model.weights", "model.h"

_IN_LIBRARY = ("model.c", "pool.c", "weights.c")
_IN_RUNNER = ("run.c", "npy.c", "check.c")
FUNCTIONS = (
    *("create", "destroy", "input_count", "output_count", "input", "output", "set_input", "run"),
    *(
        "run_profiled",
        "layer_count",
        "get_output",
        "error",
        "thread_count",
        "bound_count",
        "memory",
    ),
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
    compiled: Compiled,
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
    target = compiled.target
    cores = tuple(n for c in target.computing for n in c.cpus)
    cores = () if target.name == "host" else cores  # where others work too
    weights = write_weights(compiled.program.constants, folder / WEIGHTS)
    own = replace(
        compiled,
        symbols={k: with_prefix(f"nn_kernel_{i}", prefix) for i, k in enumerate(compiled.symbols)},
    )
    texts = {p.name: p.read_text(encoding="utf-8") for p in sorted(SOURCES.iterdir())}
    texts["network.c"] = tables.network(own, weights, cores, target.cores)
    texts["expected.c"] = tables.expected(digests, tolerance)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        work = Path(name)
        for file, text in texts.items():
            (work / file).write_text(with_prefix(text, prefix), encoding="utf-8")
        own.write_object(work / "kernels.o", tools.abi.triple)
        library = [*_compiled(("network.c", *_IN_LIBRARY), work, tools, flags), work / "kernels.o"]
        (folder / HEADER).write_bytes((work / HEADER).read_bytes())
        exports = [f"{prefix}_{f}" for f in FUNCTIONS]
        tools.shared(library, folder / LIBRARY, exports=exports)
        made, left_out = [WEIGHTS, HEADER, LIBRARY], _left_out(tools)
        if ARCHIVE not in left_out:
            tools.static_library(library, folder / ARCHIVE)
            made.append(ARCHIVE)
        if RUNNER not in left_out:
            own_part = _compiled(("expected.c", *_IN_RUNNER), work, tools, flags)
            tools.executable([*own_part, *library], folder / RUNNER)
            made.append(RUNNER)
    return Built(tuple(made), weights, target.cores, cores, left_out)


def _compiled(
    names: Iterable[str], work: Path, tools: Toolchain, flags: Sequence[str]
) -> list[Path]:
    return [tools.compile(work / n, (work / n).with_suffix(".o"), flags) for n in names]


def _left_out(tools: Toolchain) -> dict[str, str]:
    if not tools.without_libc:
        return {RUNNER: tools.no_programs} if tools.no_programs else {}
    archive = "its objects would have to be linked by an NDK, and none was there to try it with"
    return {ARCHIVE: archive, RUNNER: tools.no_programs}
