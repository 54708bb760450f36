"""From a model file to a bundle for a board: optimized, compiled, tried out against ONNX Runtime."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.memory import release
from graphopt.runtime.native import ProgramRunner
from graphopt.runtime.run import Outputs
from graphopt.runtime.toolchain.find import toolchain_for
from graphopt.runtime.toolchain.toolchain import Toolchain

# Winograd's transforms cost two digits of float32's seven; see Oracle for what noise adds.
# Half precision has three of its own, and a network adds up what its layers lose.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
# In qemu a run does some 0.3 GMAC a second.
_MOST_EMULATED_MACS = 8_000_000_000


@dataclass(frozen=True)
class CompiledModel:
    """What became of a model.

    Attributes:
        manifest: what the bundle says about itself.
        error: the worst of any output against ONNX Runtime's; None where it was not run.
        tolerance: what it had to stay within.
        unverified: why it was not run; empty if it was.
        notes: what else a user should know.
        seconds: per stage.
    """

    folder: Path
    manifest: Mapping[str, Any]
    error: float | None
    tolerance: float
    unverified: str
    notes: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def bundle_bytes(self) -> int:
        """Of all files."""
        return sum(p.stat().st_size for p in self.folder.iterdir())


def compile_file(
    source: Path,
    folder: Path,
    *,
    target: Target,
    abi: str | None = None,
    sizes: Mapping[str, int] | None = None,
    precision: str | None = None,
    optimize: bool = True,
    toolchain: str | None = None,
    verify: bool | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> CompiledModel:
    """Compiles the model in `source` to a bundle.

    Args:
        source: an ONNX file.
        folder: the bundle; written when everything succeeded.
        target: the board.
        abi: one of its ABIs by name; its first if not given.
        sizes: numbers for named dimensions of inputs; a batch without one is 1.
        precision: of images and weights, float32 (if not given) or float16.
        optimize: run the default passes first.
        toolchain: zig, gcc, ndk or cc; the first that serves if not given.
        verify: run the bundle; None: unless that takes an emulator minutes.
        replace: whether a bundle that is there may be replaced.
        progress: told what is going on.

    Raises:
        LoadError, UsageError, UnsupportedError, ToolchainError, SaveError: see there.
        VerificationError: the bundle computes something else; nothing is written.
    """
    notes: list[str] = []
    used = _checked_precision(target, precision)
    tools = toolchain_for(target, abi, use=toolchain)
    check_place(folder, replace=replace)
    clock = _Clock(progress)
    clock.enter("loading")
    graph = load(source)
    fix_sizes(graph, sizes)
    clock.enter("running the reference")
    oracle = _reference(graph, source)
    judge = _Judge(target, tools, graph, oracle, verify, TOLERANCE[used])
    if optimize:
        clock.enter("optimizing")
        graph = _run(default_passes(), graph, oracle, source, notes)
    clock.enter("lowering")
    graph = _run([pass_class(n)() for n in LOWERING], graph, oracle, source, notes)
    compiled = compile_graph(graph, target, precision=used)
    notes += _about_precision(compiled, precision)
    del graph
    release()
    clock.enter("generating code")
    manifest = make_bundle(
        compiled,
        folder,
        name=source.stem,
        tools=tools,
        reference=judge.reference(compiled),
        tolerance=max(CHECK_TOLERANCE, 2 * judge.tolerance),
        model={"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        judge=lambda draft: judge(draft, clock),
        replace=replace,
    )
    clock.leave()
    return CompiledModel(
        folder=folder,
        manifest=manifest,
        error=judge.error,
        tolerance=judge.tolerance,
        unverified=judge.unverified,
        notes=tuple(notes),
        seconds=clock.laps,
    )


def _checked_precision(target: Target, wanted: str | None) -> str:
    if target.gpu is not None:
        raise UsageError(f"{target.name}: networks for GPUs are not built yet; compile for its CPU")
    if wanted is None:
        return "float32"
    if target.precision(wanted) not in TOLERANCE:
        raise UsageError(
            f"{wanted} is what a network is quantized to: `graphopt quantize` first, and compile that"
        )
    return wanted


def _about_precision(compiled: Compiled, wanted: str | None) -> Iterator[str]:
    made, best = compiled.precision, compiled.target.default_precision
    if wanted is not None and wanted != made:
        yield f"computed in {made}: what is not quantized of a quantized network is never in {wanted}"
    if wanted is None and made == "float32" != best:
        yield f"compiled in float32; --precision {best} suits {compiled.target.name} best"


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


class _Judge:
    """Runs a bundle and compares its outputs with those of the model as it was given."""

    def __init__(
        self,
        target: Target,
        tools: Toolchain,
        graph: Graph,
        oracle: Oracle,
        verify: bool | None,
        tolerance: float,
    ) -> None:
        sample = oracle.samples[0]
        self.tolerance = max(tolerance, min(NOISE_FACTOR * sample.noise, sample.cap))
        self.error: float | None = None
        self.unverified = ""
        self._target, self._tools, self._verify = target, tools, verify
        self._runner = open_runner(graph)
        self._expected: Outputs = {}

    def reference(self, compiled: Compiled) -> Outputs:
        """The outputs for the inputs that the bundle's runner draws."""
        self._expected = self._runner.run(drawn_inputs(compiled.program))
        del self._runner
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
        runner = ProgramRunner(folder, cores=())
        try:
            found = runner.check()
        except RunError as error:
            raise VerificationError(f"{error}; nothing was written") from error
        errors = errors_of(self._expected, found)
        name, self.error = max(errors.items(), key=lambda item: item[1])
        if not self.error <= self.tolerance:
            raise VerificationError(
                f"output {name!r} of the bundle differs from ONNX Runtime's: error "
                f"{self.error:.2g} > {self.tolerance:.2g} in {runner.name}; nothing was written"
            )
        return f"worst error {self.error:.1e} ≤ {self.tolerance:.1e}, run by {runner.name}"

    def _why_not(self) -> str:
        """Why the bundle is not run here; empty if it is."""
        if self._verify is False:
            return "--no-verify"
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

    def leave(self) -> None:
        now = time.perf_counter()
        if self._stage:
            self.laps[self._stage] = self.laps.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = "", now
