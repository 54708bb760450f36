"""From a model file to a bundle or library for a board: optimized, compiled, tried out.

Tried out means run, here or in an emulator, and compared with ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import RunError, UsageError, VerificationError
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.judge import TOLERANCE, Judge
from graphopt.oracle import Oracle
from graphopt.pass_base import Context, Pass
from graphopt.passes.quantize.to_float32 import ToFloat32
from graphopt.pipeline import Pipeline, Progress, silent
from graphopt.registry import LOWERING, default_passes, pass_class
from graphopt.runtime.board import Target
from graphopt.runtime.compile import Compiled, compile_graph
from graphopt.runtime.deploy.bundle import CHECK_TOLERANCE, check_place, make_bundle
from graphopt.runtime.deploy.tvm_library import make_tvm_library
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.lower.choose import Shape
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.memory import release
from graphopt.runtime.places.place import Place
from graphopt.runtime.toolchain.find import toolchain_for
from graphopt.tune import Way, tune


@dataclass(frozen=True)
class CompiledModel:
    """What became of a model.

    Attributes:
        path: the bundle, or the library.
        manifest: what the bundle says about itself; a library's bundle was made to try it out.
        error: the worst of any output against ONNX Runtime's; None where it was not run.
        tolerance: what it had to stay within.
        unverified: why it was not run; empty if it was.
        notes: what else a user should know.
        seconds: per stage.
    """

    path: Path
    manifest: Mapping[str, Any]
    error: float | None
    tolerance: float
    unverified: str
    notes: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        return sum(p.stat().st_size for p in files)


def compile_file(
    source: Path,
    output: Path,
    *,
    target: Target,
    form: str = "bundle",
    abi: str | None = None,
    sizes: Mapping[str, int] | None = None,
    precision: str | None = None,
    optimize: bool = True,
    toolchain: str | None = None,
    verify: bool | None = None,
    tune_at: Place | None = None,
    lasting: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> CompiledModel:
    """Compiles the model in `source` to a bundle, or to a library for TVM's runtime.

    Args:
        source: an ONNX file.
        output: the bundle, a folder, or the library; written when everything succeeded.
        target: the board.
        form: bundle, or tvm.
        abi: one of its ABIs by name; its first if not given.
        sizes: numbers for named dimensions of inputs; a batch without one is 1.
        precision: of images and weights, float32 or float16; float32 if not given, on a GPU its own.
        optimize: run the default passes first.
        toolchain: zig, gcc, ndk or cc; the first that serves if not given.
        verify: run the bundle; None: unless that takes an emulator minutes.
        tune_at: where to measure ways to compute convolutions; the model's choice if not given.
        lasting: the most bytes of weights that are transformed when the network is loaded; as many as are
            fast if not given. The manifest says what they take (memory.lasting).
        replace: whether what is there may be replaced.
        progress: told what is going on.

    Raises:
        LoadError, UsageError, UnsupportedError, ToolchainError, SaveError: see there.
        VerificationError: the bundle computes something else; nothing is written.
    """
    notes: list[str] = []
    used = _checked_precision(target, precision)
    if tune_at is not None and target.gpu is not None:
        raise UsageError(f"{target.name}: there is no tuning for GPUs; leave --tune out")
    if lasting is not None and target.gpu is not None:
        raise UsageError(f"{target.name}: its GPU transforms no weights; set no limit for them")
    tools = toolchain_for(target, abi, use=toolchain)
    if form == "tvm" and target.gpu is not None:
        raise UsageError(
            f"{target.name}: a library for TVM's runtime is for processors; take a bundle"
        )
    _check_output(output, form, replace=replace)
    clock = _Clock(progress)
    clock.enter("loading")
    graph = load(source)
    fix_sizes(graph, sizes)
    notes += _widened(graph)
    clock.enter("running the reference")
    oracle = _reference(graph, source)
    judge = Judge(target, tools, graph, oracle, verify, used)
    if optimize:
        clock.enter("optimizing")
        graph = _run(default_passes(), graph, oracle, source, notes)
    clock.enter("lowering")
    graph = _run([pass_class(n)() for n in LOWERING], graph, oracle, source, notes)
    compiled: Compiled | GpuCompiled
    if target.gpu is not None:
        compiled = compile_for_gpu(graph, target, precision=used)
    else:
        tuned = _tuned(graph, tune_at, used, clock, notes) if tune_at is not None else {}
        compiled = compile_graph(graph, target, precision=used, tuned=tuned, lasting=lasting)
    notes += _about_precision(compiled, precision)
    reference = judge.reference(compiled)  # which tells how exact it is, too
    del graph
    release()
    clock.enter("generating code")
    with _bundle_place(output, form) as folder:
        manifest = make_bundle(
            compiled,
            folder,
            name=source.stem,
            tools=tools,
            reference=reference,
            tolerance=max(CHECK_TOLERANCE, 2 * judge.tolerance),
            model={"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
            judge=lambda draft: judge(draft, lambda: clock.enter("running the bundle")),
            replace=replace,
        )
    notes += judge.remarks()
    if form == "tvm" and isinstance(compiled, Compiled):
        clock.enter("generating code")
        make_tvm_library(compiled, output, name=source.stem, tools=tools)
    clock.leave()
    return CompiledModel(
        path=output,
        manifest=manifest,
        error=judge.error,
        tolerance=judge.tolerance,
        unverified=judge.unverified,
        notes=tuple(notes),
        seconds=clock.laps,
    )


def _check_output(output: Path, form: str, *, replace: bool) -> None:
    if form == "bundle":
        check_place(output, replace=replace)
    elif output.is_dir():
        raise UsageError(f"{output} is a folder; a library is a file, {output.name}.so")
    elif not output.absolute().parent.is_dir():
        raise UsageError(f"{output.parent} does not exist; create the folder first")
    elif output.exists() and not replace:
        raise UsageError(f"{output} exists; --force replaces it")


@contextmanager
def _bundle_place(output: Path, form: str) -> Iterator[Path]:
    """Where the bundle goes: for a library, whose kernels it holds, only to be tried out."""
    if form == "bundle":
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        yield Path(name) / "bundle"


def _checked_precision(target: Target, wanted: str | None) -> str:
    used = target.precision(wanted)
    if used not in TOLERANCE:
        raise UsageError(
            f"{used} is what a network is quantized to: `graphopt quantize` first, and compile that"
        )
    return used


def _tuned(
    graph: Graph, place: Place, precision: str, clock: _Clock, notes: list[str]
) -> Mapping[Shape, Way]:
    clock.enter("tuning")
    found = tune(graph, place, precision, progress=clock.say)
    gained = [g for g in found.gains.values() if g > 1]
    notes.append(
        f"tuned at {place}: {len(found.ways)} shapes of convolutions, {found.measured} of them measured "
        f"now; {len(gained)} are computed in another way than the model's, up to "
        f"{max(gained, default=1.0):.2f} times as fast"
    )
    clock.enter("lowering")
    return found.ways


def _about_precision(compiled: Compiled | GpuCompiled, wanted: str | None) -> Iterator[str]:
    made = compiled.precision
    if wanted is not None and wanted not in made:
        yield f"computed in {made}: what is not quantized of a quantized network is never in {wanted}"
    if wanted is None and made == "float16":
        yield f"computed in float16, which suits {compiled.target.name} best; --precision float32 is exact"


def _reference(graph: Graph, source: Path) -> Oracle:
    try:
        return Oracle(graph)
    except RunError as error:
        raise VerificationError(f"{source}: nothing can be proven about it: {error}") from error


def _widened(graph: Graph) -> list[str]:
    """Makes a graph in half precision one of float32, which everything here begins with; what to tell."""
    context = Context()
    ToFloat32().run(graph, context)
    if context.rewrites:
        return ["the file holds float16: inputs, outputs and weights are read as float32"]
    return [f"{note.where}: {note.what}" for note in context.refusals]


def _run(
    passes: Iterable[Pass], graph: Graph, oracle: Oracle, source: Path, notes: list[str]
) -> Graph:
    outcome = Pipeline(passes).run(graph, oracle=oracle)
    if outcome.final is not None and not outcome.final.passed:
        raise VerificationError(
            f"{source}: optimizing it changes its outputs: {outcome.final}; "
            "--no-optimize compiles it as it is"
        )
    notes += [
        f"pass {r.name} was rolled back: it {r.detail}"
        for r in outcome.results
        if r.status == "rolled-back"
    ]
    return outcome.graph


class _Clock:
    """Seconds per stage, and word of each to whoever waits."""

    def __init__(self, progress: Progress) -> None:
        self.laps: dict[str, float] = {}
        self._progress = progress
        self._stage, self._since = "", time.perf_counter()

    def enter(self, stage: str) -> None:
        self.leave()
        self._progress(stage)
        self._stage = stage

    def say(self, text: str) -> None:
        """Word of what the stage is at."""
        self._progress(text)

    def leave(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self.laps[self._stage] = self.laps.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = "", now
