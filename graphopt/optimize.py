"""The main job: a model file in, a smaller and faster one out that provably computes the same."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import processes
from graphopt.errors import RunError, UsageError, VerificationError
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.cost import Cost, NodeCost, cost_of, node_cost
from graphopt.ir.graph import Constant, Graph
from graphopt.ir.shapes import infer_shapes
from graphopt.named import unknown
from graphopt.oracle import Oracle, Verdict
from graphopt.pass_base import Pass
from graphopt.pipeline import Outcome, PassResult, Pipeline, Progress, silent
from graphopt.registry import default_passes
from graphopt.runtime.measure import Latency, compare_latency, operator_shares
from graphopt.runtime.memory import release
from graphopt.runtime.run import Feeds, Runner, open_file

# An activation that takes this share of the running time deserves a note.
_NOTE_SHARE = 0.15


@dataclass(frozen=True)
class Snapshot:
    """What is told about a model: its file, its cost, its layers."""

    path: str
    file_bytes: int
    sha256: str
    opset: int
    cost: Cost
    layers: tuple[NodeCost, ...]

    @classmethod
    def of(cls, graph: Graph, path: Path) -> Snapshot:
        """The snapshot of a graph stored at `path`."""
        layers = tuple(node_cost(n) for n in graph.nodes)
        cost, size = cost_of(graph), path.stat().st_size
        data = path.with_name(path.name + ".data")
        if size < cost.weight_bytes and data.exists():  # else it is left from another model
            size += data.stat().st_size
        return cls(str(path), size, _sha256(path), graph.opset, cost, layers)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class Accuracy:
    """What a metric says of the model before and after, as shares between 0 and 1."""

    metric: str
    before: float
    after: float
    images: int
    data: str

    @property
    def lost(self) -> float:
        """Points lost: 100 (before - after)."""
        return 100 * (self.before - self.after)


@dataclass(frozen=True)
class Optimized:
    """Everything one run found out; the report is made from this.

    Attributes:
        bundle: the manifest of what was compiled for a board, and its `path` and `bytes`.
        bench: what that takes there, as `graphopt bench` tells it.
    """

    before: Snapshot
    after: Snapshot
    passes: tuple[PassResult, ...]
    executor: str | None
    samples: tuple[str, ...]
    verdict: Verdict | None
    latency: Latency | None
    operator_shares: Mapping[str, float]
    notes: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    bundle: Mapping[str, Any] | None = None
    bench: Mapping[str, Any] | None = None


def optimize_file(
    source: Path,
    target: Path,
    *,
    passes: Sequence[Pass] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    strict: bool = False,
    verify: bool = True,
    measure: bool = True,
    judge: Callable[[Graph], Accuracy] | None = None,
    progress: Progress = silent,
) -> Optimized:
    """Optimizes the model in `source` and writes the result to `target`.

    Args:
        source: an ONNX file.
        target: written only when the result is proven, by the first of processes that train together; may
            be `source`.
        passes: the default pipeline when None.
        input_shapes: fixed shapes for inputs, by name.
        seed: two runs with the same seed write the same bytes.
        strict: stop at the first pass that breaks its contract instead of rolling it back.
        verify: compare outputs; without it nothing is proven, and the report says so.
        measure: time both models in ONNX Runtime.
        judge: measures the result on labelled data before it is written, and may raise BudgetError.
        progress: told what is going on.

    Raises:
        LoadError, UsageError, SaveError: see there.
        VerificationError: the model cannot be run, or the result differs; nothing is written.
    """
    clock = _Clock()
    progress("loading")
    graph, target = load(source), processes.place_for(target)
    pipeline = Pipeline(default_passes() if passes is None else passes)
    fix_shapes(graph, input_shapes or {})
    notes = list(weight_notes(graph))
    before = Snapshot.of(graph, source)
    clock.lap("load")
    oracle = None
    if verify:
        progress("running the reference")
        oracle = _reference(graph, source, seed=seed, reshaped=bool(input_shapes))
        release()
        clock.lap("reference")
    outcome = pipeline.run(graph, oracle=oracle, seed=seed, strict=strict, progress=progress)
    clock.lap("passes")
    _must_agree(outcome, source)
    notes += pass_notes(outcome)
    feeds = None if oracle is None else oracle.samples[0].feeds
    kept = source if source.resolve() != target.resolve() else None
    del graph  # a large model's original weights are not needed any more
    release()
    accuracy: Accuracy | None = None
    if judge is not None:
        progress("measuring accuracy")
        accuracy = judge(outcome.graph)
        clock.lap("accuracy")
    progress("writing")
    save(outcome.graph, target, runnable=verify and oracle is not None and _by_ort(oracle))
    after, results, final = Snapshot.of(outcome.graph, target), outcome.results, outcome.final
    del outcome
    release()
    clock.lap("save")
    latency: Latency | None = None
    shares: dict[str, float] = {}
    if measure and processes.is_first() and feeds is not None and _by_ort(oracle):
        progress("measuring latency")
        latency, shares = _measured(kept, after, feeds, notes)
        clock.lap("measure")
    return Optimized(
        before=before,
        after=after,
        passes=results,
        executor=oracle.executor if oracle else None,
        samples=tuple(s.recipe for s in oracle.samples) if oracle else (),
        verdict=final,
        latency=latency,
        operator_shares=shares,
        notes=tuple(notes),
        seconds=clock.laps,
        accuracy=accuracy,
    )


def fix_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives inputs fixed shapes and infers everything behind them again.

    Raises:
        UsageError: no such input, another rank, or a size that contradicts the model's.
    """
    inputs = {t.name: t for t in graph.inputs}
    for name, shape in shapes.items():
        if name not in inputs:
            raise UsageError(unknown("input", name, inputs))
        old = inputs[name].shape
        if old is not None and len(old) != len(shape):
            raise UsageError(f"input {name!r} has {len(old)} dimensions {old}, not {len(shape)}")
        for have, want in zip(old or [], shape, strict=False):
            if isinstance(have, int) and have != want:
                raise UsageError(f"input {name!r} is {old} in the model; {list(shape)} contradicts")
        inputs[name].shape = list(shape)
    if shapes:
        for node in graph.nodes:
            for tensor in node.outputs:
                tensor.shape = None
        infer_shapes(graph)


def weight_notes(graph: Graph) -> list[str]:
    """Warnings about constants that hold NaN or infinite values."""
    floats = (
        t
        for t in graph.tensors().values()
        if isinstance(t, Constant) and t.values.dtype.kind == "f"
    )
    # Single infinite values are common and meant: the bounds of a Clip, the fill of a mask.
    names = sorted(
        t.name
        for t in floats
        if np.isnan(t.values).any() or (t.values.size > 1 and np.isinf(t.values).any())
    )
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [f"weights hold NaN or infinite values: {shown}; the outputs are likely meaningless"]


def pass_notes(outcome: Outcome) -> list[str]:
    """A note per pass that was rolled back."""
    return [
        f"pass {r.name} was rolled back: it {r.detail}"
        for r in outcome.results
        if r.status == "rolled-back"
    ]


def _reference(graph: Graph, source: Path, *, seed: int, reshaped: bool) -> Oracle:
    try:
        # The judge is the file as it was given, so that reading it is proven too.
        return Oracle(graph, seed=seed, reference=None if reshaped else _file_runner(source))
    except RunError as error:
        raise VerificationError(
            f"{source}: left alone, nothing can be proven about it: {error}. "
            "--no-verify optimizes it without proof"
        ) from error


def _file_runner(source: Path) -> Runner | None:
    try:
        return open_file(source)
    except RunError:
        return None  # onnx.reference may still run its normal form


def _must_agree(outcome: Outcome, source: Path) -> None:
    if outcome.final is not None and not outcome.final.passed:
        raise VerificationError(f"{source}: the result differs: {outcome.final}; nothing written")


def _by_ort(oracle: Oracle | None) -> bool:
    return oracle is not None and oracle.executor == "onnxruntime"


def _measured(
    before: Path | None, after: Snapshot, feeds: Feeds, notes: list[str]
) -> tuple[Latency | None, dict[str, float]]:
    if before is None:
        notes.append("the input was replaced, so its latency was not measured")
    try:
        latency = compare_latency(before, Path(after.path), feeds) if before else None
        shares = operator_shares(Path(after.path), feeds)
    except RunError as error:
        notes.append(f"latency was not measured: {error}")
        return None, {}
    operators = {layer.op for layer in after.layers}
    notes += [*share_notes(shares, operators), *integer_notes(latency, shares, operators)]
    return latency, shares


def share_notes(shares: Mapping[str, float], operators: set[str]) -> list[str]:
    """A note on an activation that no runtime fuses, when it takes much of the running time."""
    # ONNX Runtime has no Mish kernel: it runs the operator's definition, Softplus, Tanh and Mul.
    share = sum(shares.get(op, 0.0) for op in ("Mish", "Softplus", "Tanh"))
    if "Mish" not in operators or share < _NOTE_SHARE:
        return []
    note = (
        f"Mish takes {share:.0%} of the running time in ONNX Runtime, which fuses it into nothing; "
        "the same network trained with SiLU, HardSwish or LeakyReLU runs faster"
    )
    return [note]


def integer_notes(
    latency: Latency | None, shares: Mapping[str, float], operators: set[str]
) -> list[str]:
    """A note on a quantized model that ONNX Runtime runs no faster, with what takes its time."""
    if latency is None or latency.ratio <= 1 or "DequantizeLinear" not in operators:
        return []
    most = sorted(shares.items(), key=lambda item: -item[1])[:3]
    told = ", ".join(f"{op} {share:.0%}" for op, share in most)
    note = (
        f"integers do not pay in ONNX Runtime on this machine: {latency.ratio:.2f} times the time of "
        f"the float model ({told}); networks with SiLU and depthwise convolutions gain least"
    )
    return [note]


class _Clock:
    """Wall-clock seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, Any] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
