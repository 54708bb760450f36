"""Judges whether two graphs compute the same.

Both run on the same seeded inputs. For each output element

    error = |a - b| / (|a| + floor),   floor = the smaller of the rms over the element's channel
                                               (axis 1) and over its last-axis column,
                                               but at least 1e-3

so that a score of 0.01 beside a box of 400 in one tensor is held to the same relative tolerance.
Integer and boolean outputs count the share of elements that differ; shapes must match; NaN and
infinities must stand at the same places.

Some networks amplify rounding more than any fixed tolerance allows. The oracle measures that for
every sample: it runs the reference on inputs moved by one unit in the last place, and tolerates
`NOISE_FACTOR` times the error this causes, at most `TOLERANCE_CAP`. Inputs so large that the network
answers mostly with rounding (or overflows) are drawn again, smaller. The tolerance used is part of
every result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import RunError
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import (
    Graph,
    Node,
    inner_nodes,
    input_of,
    is_op,
    label,
    scalar_of,
    value_of,
)
from graphopt.runtime.run import Feeds, OrtRunner, Outputs, Runner, open_graph, open_reference
from graphopt.samples import dim_choices, draw

NOISE_FACTOR = 8.0
TOLERANCE_CAP = 1e-3
NARROW_TOLERANCE_CAP = 2e-2  # float16: one unit in the last place is 1e-3
# ONNX Runtime's sigmoid is right to 1e-7 absolute, so probabilities near 0 have no more digits.
_SMALLEST = 1e-3
_GROUP = 16
_RANDOM_OPS = (
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Bernoulli", "Multinomial"),
)
_SHRINK = (1.0, 1 / 16, 1 / 256)


@dataclass(frozen=True)
class Sample:
    """One set of inputs and how it was drawn."""

    recipe: str
    feeds: Feeds
    expected: Outputs
    noise: float

    @property
    def cap(self) -> float:
        """The most that noise may add to the tolerance: less for float32 than for 16 bits."""
        floats = [v for v in self.feeds.values() if v.dtype.kind == "f"]
        narrow = any(v.dtype.itemsize < 4 for v in floats)
        return NARROW_TOLERANCE_CAP if narrow else TOLERANCE_CAP


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison. `error` is the worst over all samples and outputs."""

    error: float
    tolerance: float
    output: str
    sample: str
    departs_at: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        sign = "<=" if self.passed else ">"
        text = f"error {self.error:.2g} {sign} {self.tolerance:.2g}"
        if self.passed:
            return text
        where = f", first seen at {self.departs_at!r}" if self.departs_at else ""
        return f"{text} at output {self.output!r} for {self.sample}{where}"


class Oracle:
    """Reference outputs of one graph, and comparisons of others against them."""

    def __init__(self, graph: Graph, *, seed: int = 0, reference: Runner | None = None) -> None:
        """Draws the inputs and runs the reference.

        Args:
            graph: the graph in normal form; inputs are drawn for it.
            seed: two runs with one seed draw the same inputs.
            reference: what to run instead of `graph`, for example the file it was read from.

        Raises:
            RunError: neither ONNX Runtime nor onnx.reference can run it, or it is random.
        """
        if (node := _random_node(graph)) is not None:
            where = f"{node.op} {label(node)!r}"
            raise RunError(f"{where} draws random numbers, so that no two runs agree")
        runner = reference or open_runner(graph)
        self.seed = seed
        self.executor = runner.name
        self.samples = _runnable_samples(graph, runner, seed)

    def check(self, graph: Graph, rtol: float) -> Verdict:
        """Compares `graph` with the reference; raises RunError when it cannot run."""
        return self.compare(self.run(graph), rtol)

    def run(self, graph: Graph) -> list[Outputs]:
        """The outputs of `graph` for every sample; raises RunError when it cannot run."""
        runner = self._open(graph)
        return [runner.run(s.feeds) for s in self.samples]

    def compare(self, outputs: Sequence[Outputs], rtol: float) -> Verdict:
        """Compares outputs with the reference's, sample by sample; the worst one is the verdict."""
        verdicts: list[Verdict] = []
        for sample, found in zip(self.samples, outputs, strict=True):
            tolerance = max(rtol, min(NOISE_FACTOR * sample.noise, sample.cap))
            errors = errors_of(sample.expected, found)
            verdicts += [Verdict(e, tolerance, n, sample.recipe) for n, e in errors.items()]
        return max(verdicts, key=lambda v: (not v.passed, v.error))

    def expecting(self, outputs: Sequence[Outputs]) -> Oracle:
        """The same samples with other outputs as the reference."""
        twin = object.__new__(Oracle)
        twin.seed, twin.executor = self.seed, self.executor
        twin.samples = [
            dataclasses.replace(s, expected=found)
            for s, found in zip(self.samples, outputs, strict=True)
        ]
        return twin

    def anew(self, graph: Graph) -> Oracle:
        """The judge of changes to another graph, which amplifies rounding in its own way."""
        return Oracle(graph, seed=self.seed)

    def _open(self, graph: Graph) -> Runner:
        if self.executor == OrtRunner.name:
            return open_graph(graph)
        return open_reference(graph, cost_of(graph).macs)


def _random_node(graph: Graph) -> Node:
    """A node whose results differ from run to run, or None."""
    for node in (*graph.nodes, *inner_nodes(graph)):
        flag = input_of(node, 2) if is_op(node, "Dropout") else None
        training = flag is not None and (value_of(flag) is None or bool(scalar_of(flag)))
        if (training or is_op(node, *_RANDOM_OPS)) and "seed" not in node.attrs:
            return node
    return None


def open_runner(graph: Graph) -> Runner:
    """ONNX Runtime when it can load the graph, else onnx.reference."""
    try:
        return open_graph(graph)
    except RunError as first:
        try:
            return open_reference(graph, cost_of(graph).macs)
        except RunError as second:
            raise RunError(f"{first}; {second}") from second


def errors_of(expected: Outputs, found: Outputs) -> dict[str, float]:
    """The error of every output; infinite for one that is missing."""
    return {name: error_of(e, found.get(name)) for name, e in expected.items()}


def error_of(expected: Any, found: Any) -> float:
    """The worst error between two outputs (see the module docstring); sequences element by element."""
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(expected) != len(found):
            return float("inf")
        return max((error_of(e, f) for e, f in zip(expected, found, strict=True)), default=0.0)
    if found is None:
        return 0.0 if expected is None else float("inf")
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.size == 0:
        return 0.0
    if a.dtype.kind in "iubOUS":
        return float(np.mean(a != b))
    return _float_error(a.astype(np.float64), b.astype(np.float64))


def _float_error(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(a - b), 0.0)
    if not difference.any():
        return 0.0
    a = np.where(finite, a, 0.0)
    return float(np.max(difference / (np.abs(a) + _floor(a))))


def _floor(a: np.ndarray[Any, Any]) -> Any:
    """What an element counts as at least: the rms around it, and never less than `_SMALLEST`."""
    floor = _rms(a, None)
    for axis in (1, a.ndim - 1) if a.ndim >= 2 else ():
        # One or two elements are no statistic: a single zero would make any rounding infinite.
        if a.size >= _GROUP * a.shape[axis]:
            floor = np.minimum(floor, _rms(a, tuple(i for i in range(a.ndim) if i != axis)))
    return np.maximum(floor, _SMALLEST)


def _rms(a: np.ndarray[Any, Any], axes: tuple[int, ...] | None) -> Any:
    return np.sqrt(np.mean(np.square(a), axis=axes, keepdims=axes is not None))


def _nudge(values: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if values.dtype.kind != "f":
        return values
    up = rng.random(values.shape) < 0.5
    toward = np.where(up, np.inf, -np.inf).astype(values.dtype)
    return np.asarray(np.nextafter(values, toward))


# --- inputs -----------------------------------------------------------------------------------


def _runnable_samples(graph: Graph, runner: Runner, seed: int) -> list[Sample]:
    first_error: RunError | None = None
    for dims in dim_choices(graph):
        try:
            return [_sample(graph, runner, sizes, k, seed) for k, sizes in enumerate(dims)]
        except RunError as error:
            first_error = first_error or error
    raise first_error or RunError("the model has no inputs that could be drawn")


def _sample(
    graph: Graph, runner: Runner, sizes: Mapping[str, int], index: int, seed: int
) -> Sample:
    """The first sample is standard normal, the second large and of both signs, and so on in turn."""
    large = index % 2 == 1
    sample = None
    for shrink in _SHRINK:
        rng = np.random.default_rng([seed, index])
        feeds = draw(graph, sizes, rng, large=large, shrink=shrink)
        expected = runner.run(feeds)
        moved = {k: _nudge(v, rng) for k, v in feeds.items()}
        noise = max(errors_of(expected, runner.run(moved)).values(), default=0.0)
        if sample is None or noise < sample.noise:
            sample = Sample(_recipe(index, sizes, large, shrink), feeds, expected, noise)
        if noise * NOISE_FACTOR <= sample.cap and _mostly_finite(expected):
            break
    assert sample is not None
    return sample


def _recipe(index: int, sizes: Mapping[str, int], large: bool, shrink: float) -> str:
    kind = "uniform in [-128, 255]" if large else "standard normal"
    kind += f" times {shrink:g}" if shrink != 1 else ""
    at = "".join(f", {name}={size}" for name, size in sizes.items())
    return f"sample {index} ({kind}{at})"


def _mostly_finite(outputs: Outputs) -> bool:
    floats = [v for v in outputs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    return all(np.isfinite(v).mean() > 0.5 for v in floats if v.size)


# --- where two graphs part --------------------------------------------------------------------


def departure(before: Graph, after: Graph, sample: Sample, tolerance: float) -> str | None:
    """The first node of `after` whose result has the same name in `before` and another value."""
    names = [t.name for n in after.nodes for t in n.outputs if t.name]
    known = {t.name for n in before.nodes for t in n.outputs}
    shared = [n for n in names if n in known]
    if not shared:
        return None
    try:
        old = open_graph(_expose(before, shared)).run(sample.feeds)
        new = open_graph(_expose(after, shared)).run(sample.feeds)
    except RunError:
        return None
    bad = (n for n in shared if error_of(old[n], new[n]) > tolerance)
    return next(bad, None)


def _expose(graph: Graph, names: Sequence[str]) -> Graph:
    twin = graph.copy()
    tensors = twin.tensors()
    twin.outputs = [tensors[n] for n in names]
    return twin
