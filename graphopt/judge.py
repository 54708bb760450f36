"""Tries a bundle out: runs it, here or in an emulator, and compares its outputs with ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from graphopt.errors import RunError, UsageError, VerificationError
from graphopt.ir.graph import Graph
from graphopt.oracle import NOISE_FACTOR, Oracle, errors_of, open_runner
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes, pass_class
from graphopt.runtime.board import Target
from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy.bundle import drawn_inputs
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.gpu.twin import twin_of
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.memory import release
from graphopt.runtime.native import ProgramRunner
from graphopt.runtime.run import Feeds, Outputs, Runner, open_graph
from graphopt.runtime.toolchain.toolchain import Toolchain

# Winograd's transforms cost two digits of float32's seven; see Oracle for what noise adds.
# Half precision has three of its own, and a network adds up what its layers lose.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
# What float layers before a rounding may be off, in the precision they compute in (sums in half are off by
# several last bits); and how much of the outputs that may move before comparing them says little.
_LAST_BITS = {"float32": 1e-6, "float16": 2.0**-8}
_MUCH = 2e-2
# Sums of n terms in half precision are off by sqrt(n) roundings where storing their result is one: trained
# detectors have been 11 times as far off.
_HALF_SUMS = 16.0
# In qemu a run does some 0.3 GMAC a second.
_MOST_EMULATED_MACS = 8_000_000_000


def _stored_in_half(graph: Graph) -> Graph:
    return Pipeline([*default_passes(), pass_class("to-float16")()]).run(graph).graph


def _moved(feeds: Feeds, by: float) -> Feeds:
    rng = np.random.default_rng(0)
    floats = {name: values for name, values in feeds.items() if values.dtype.kind == "f"}
    factors = {n: 1 + by * rng.standard_normal(v.shape) for n, v in floats.items()}
    return {**feeds, **{n: (v * factors[n]).astype(v.dtype) for n, v in floats.items()}}


class Judge:
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
        self._factor, self._precision = 2.0, precision
        self._quantized = has_integers(graph)
        if self._quantized:
            self._runners.insert(0, open_graph(graph, optimized=True))
        elif precision == "float16":
            self._factor = _HALF_SUMS
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
            # Without integers there are no steps that half precision's own rounding could move.
            bits = _LAST_BITS[self._precision if self._quantized else "float32"]
            moved = _moved(feeds, bits)
            others = [runner.run(moved), *(s.run(feeds) for s in simulations)]
            spread = max(max(errors_of(self._expected, o).values(), default=0.0) for o in others)
            self.tolerance = max(self.tolerance, self._factor * spread)
        self._runners.clear()
        release()
        self._macs = sum(s.macs for s in compiled.program.steps)
        return self._expected

    def __call__(self, folder: Path, begins: Callable[[], None]) -> str:
        """Judges the bundle, after `begins()` where it is run, and returns what it is told of it.

        Raises:
            VerificationError: the outputs differ.
        """
        self.unverified = self._why_not()
        if not self.unverified:
            begins()
            try:
                return self._compared(folder)
            except UsageError as error:  # what the emulator needs is not here
                if self._verify:
                    raise
                self.unverified = str(error)
        return f"not run where it was compiled: {self.unverified}"

    def remarks(self) -> Iterator[str]:
        """What a user should know of how exact the network is."""
        if self._quantized and self.tolerance > _MUCH:
            yield (
                f"the last bits of its inputs move its outputs by {self.tolerance / 2:.0%}, so that "
                "comparing outputs says little: quantized networks without training, or calibrated on "
                "noise, are so"
            )
        elif self._precision == "float16" and self.error is not None and self.error > _MUCH:
            yield (
                f"half precision moves outputs by up to {self.error:.0%} of what is usual around them: "
                "measure its accuracy on images, or compile in float32"
            )

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
