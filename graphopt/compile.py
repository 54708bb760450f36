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

import numpy as np

from graphopt.errors import RunError, UsageError, VerificationError
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.oracle import NOISE_FACTOR, Oracle, errors_of, open_runner
from graphopt.pass_base import Pass
from graphopt.pipeline import Pipeline, Progress, silent
from graphopt.registry import LOWERING, default_passes, pass_class
from graphopt.runtime.board import Target
from graphopt.runtime.compile import Compiled, compile_graph
from graphopt.runtime.deploy.bundle import CHECK_TOLERANCE, check_place, drawn_inputs, make_bundle
from graphopt.runtime.deploy.tvm_library import make_tvm_library
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.gpu.twin import twin_of
from graphopt.runtime.lower.choose import Shape
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.memory import release
from graphopt.runtime.native import ProgramRunner
from graphopt.runtime.places.place import Place
from graphopt.runtime.run import Feeds, Outputs, Runner, open_graph
from graphopt.runtime.toolchain.find import toolchain_for
from graphopt.runtime.toolchain.toolchain import Toolchain
from graphopt.tune import Way, tune

# Winograd's transforms cost two digits of float32's seven; see Oracle for what noise adds.
# Half precision has three of its own, and a network adds up what its layers lose.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
# What float layers before the first rounding may be off; and how much of the outputs that may move
# before comparing them says little.
_LAST_BITS, _MUCH = 1e-6, 2e-2
# In qemu a run does some 0.3 GMAC a second.
_MOST_EMULATED_MACS = 8_000_000_000


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
    clock.enter("running the reference")
    oracle = _reference(graph, source)
    judge = _Judge(target, tools, graph, oracle, verify, used)
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
        compiled = compile_graph(graph, target, precision=used, tuned=tuned)
    notes += _about_precision(compiled, precision)
    reference = judge.reference(compiled)  # which tells how exact it is, too
    if judge.tolerance > _MUCH and used == "float32":
        notes.append(
            f"the last bits of its inputs move its outputs by {judge.tolerance / 2:.0%}, so that comparing "
            "outputs says little: quantized networks without training, or calibrated on noise, are so"
        )
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
            judge=lambda draft: judge(draft, clock),
            replace=replace,
        )
    if used == "float16" and judge.error is not None and judge.error > _MUCH:
        notes.append(
            f"half precision moves outputs by up to {judge.error:.0%} of what is usual around them: "
            "measure its accuracy on images, or compile in float32"
        )
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
    if wanted is not None and wanted != made:
        yield f"computed in {made}: what is not quantized of a quantized network is never in {wanted}"
    if wanted is None and made == "float16":
        yield f"computed in float16, which suits {compiled.target.name} best; --precision float32 is exact"


def _reference(graph: Graph, source: Path) -> Oracle:
    try:
        return Oracle(graph)
    except RunError as error:
        raise VerificationError(f"{source}: nothing can be proven about it: {error}") from error


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


def _stored_in_half(graph: Graph) -> Graph:
    return Pipeline([*default_passes(), pass_class("to-float16")()]).run(graph).graph


def _moved(feeds: Feeds) -> Feeds:
    rng = np.random.default_rng(0)
    floats = {name: values for name, values in feeds.items() if values.dtype.kind == "f"}
    factors = {n: 1 + _LAST_BITS * rng.standard_normal(v.shape) for n, v in floats.items()}
    return {**feeds, **{n: (v * factors[n]).astype(v.dtype) for n, v in floats.items()}}


class _Judge:
    """Runs a bundle and compares its outputs with those of the model as it was given."""

    def __init__(
        self,
        target: Target,
        tools: Toolchain,
        graph: Graph,
        oracle: Oracle,
        verify: bool | None,
        precision: str,
    ) -> None:
        sample = oracle.samples[0]
        self.tolerance = max(TOLERANCE[precision], min(NOISE_FACTOR * sample.noise, sample.cap))
        self.error: float | None = None
        self.unverified = ""
        self._target, self._tools, self._verify = target, tools, verify
        self._runners: list[Runner] = [open_runner(graph)]
        self._factor = 2.0
        if has_integers(graph):
            self._runners.insert(0, open_graph(graph, optimized=True))
        elif precision == "float16":
            self._factor = NOISE_FACTOR
            self._runners.append(open_graph(_stored_in_half(graph)))
        self._expected: Outputs = {}

    def reference(self, compiled: Compiled | GpuCompiled) -> Outputs:
        """The outputs for the inputs that the bundle's runner draws.

        Those of a quantized network are ONNX Runtime's with its optimizations, which compute in integers
        as we do. A rounding can go either way for a last bit, and layers after it see a whole step: as
        far as outputs go apart for the last bits of inputs, or are from ONNX Runtime's simulation of the
        integers in float, nobody can say what is right. In half precision outputs may be some times as far
        off as they are in ONNX Runtime when every tensor is stored in half: our sums are in half, too.
        """
        self._compiled = compiled
        feeds = drawn_inputs(compiled.program)
        runner, *simulations = self._runners
        self._expected = runner.run(feeds)
        if simulations:
            others = [runner.run(_moved(feeds)), *(s.run(feeds) for s in simulations)]
            spread = max(max(errors_of(self._expected, o).values(), default=0.0) for o in others)
            self.tolerance = max(self.tolerance, self._factor * spread)
        self._runners.clear()
        release()
        self._macs = sum(s.macs for s in compiled.program.steps)
        return self._expected

    def __call__(self, folder: Path, clock: _Clock) -> str:
        """What the bundle is told of it.

        Raises:
            VerificationError: the outputs differ.
        """
        self.unverified = self._why_not()
        if not self.unverified:
            clock.enter("running the bundle")
            try:
                return self._compared(folder)
            except UsageError as error:  # what the emulator needs is not here
                if self._verify:
                    raise
                self.unverified = str(error)
        return f"not run where it was compiled: {self.unverified}"

    def _compared(self, folder: Path) -> str:
        if not isinstance(self._compiled, GpuCompiled):
            runner = ProgramRunner(folder, cores=())
            return self._judged(runner, runner.name)
        with twin_of(self._compiled, self._expected, 2 * self.tolerance) as twin:
            return self._judged(twin.runner, twin.name)

    def _judged(self, runner: ProgramRunner, by: str) -> str:
        try:
            found = runner.check()
        except RunError as error:
            raise VerificationError(f"{error}; nothing was written") from error
        errors = errors_of(self._expected, found)
        name, self.error = max(errors.items(), key=lambda item: item[1])
        if not self.error <= self.tolerance:
            raise VerificationError(
                f"output {name!r} of the bundle differs from ONNX Runtime's: error "
                f"{self.error:.2g} > {self.tolerance:.2g} in {by}; nothing was written"
            )
        return f"worst error {self.error:.1e} ≤ {self.tolerance:.1e}, run by {by}"

    def _why_not(self) -> str:
        """Why the bundle is not run here; empty if it is."""
        if self._verify is False:
            return "--no-verify"
        if self._target.gpu is not None:
            return ""
        if self._tools.abi.libc == "bionic":
            return "programs for Android do not run here"
        if self._target.name == "host":
            return ""
        if self._verify is None and self._macs > _MOST_EMULATED_MACS:
            seconds = self._macs / 0.3e9
            return (
                f"{self._macs / 1e9:.0f} GMAC take an emulator {seconds / 60:.0f} minutes; "
                "--verify has them taken, or `./run --check` on the board"
            )
        return ""


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
