"""Two models side by side: what they are made of, what they cost, whether they compute the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph, Shape
from graphopt.optimize import Snapshot
from graphopt.oracle import Oracle
from graphopt.pipeline import Progress, silent
from graphopt.report.document import histogram
from graphopt.runtime.measure import compare_latency
from graphopt.runtime.run import OrtRunner

RTOL = 1e-4


def compare_files(
    a: Path, b: Path, *, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """The comparison of two ONNX files as data.

    Raises:
        UsageError: they have different inputs or outputs.
        RunError: the first one cannot be run.
    """
    progress("loading")
    first, second = load(a), load(b)
    _same_interface(first, second, a, b)
    progress("comparing outputs")
    oracle = Oracle(first, seed=seed)
    verdict = oracle.check(second, RTOL)
    latency = None
    if oracle.executor == OrtRunner.name:
        progress("measuring latency")
        latency = compare_latency(a, b, oracle.samples[0].feeds)
    return {
        "a": _side(first, a),
        "b": _side(second, b),
        "verification": {
            "executor": oracle.executor,
            "samples": [s.recipe for s in oracle.samples],
            "error": verdict.error,
            "tolerance": verdict.tolerance,
            "output": verdict.output,
            "passed": verdict.passed,
        },
        "latency": dataclasses.asdict(latency) if latency else None,
    }


def _side(graph: Graph, path: Path) -> dict[str, Any]:
    shot = Snapshot.of(graph, path)
    cost = dataclasses.asdict(shot.cost)
    return {
        "path": str(path),
        "file_bytes": shot.file_bytes,
        **cost,
        "operators": histogram(shot.layers),
    }


def _same_interface(first: Graph, second: Graph, a: Path, b: Path) -> None:
    ours, theirs = ({t.name: t.dtype for t in g.inputs} for g in (first, second))
    if ours != theirs:
        raise UsageError(f"{a} has the inputs {sorted(ours)}, {b} has {sorted(theirs)}")
    made, wanted = (sorted(t.name for t in g.outputs) for g in (first, second))
    if made != wanted:
        raise UsageError(f"{a} has the outputs {made}, {b} has {wanted}")
    shapes = {t.name: t.shape for t in second.inputs}
    for tensor in first.inputs:
        if _contradict(tensor.shape, shapes[tensor.name]):
            there = f"{tensor.shape} in {a} and {shapes[tensor.name]} in {b}"
            raise UsageError(f"input {tensor.name!r} is {there}; they cannot take the same images")


def _contradict(one: Shape, other: Shape) -> bool:
    if one is None or other is None:
        return False
    if len(one) != len(other):
        return True
    sizes = zip(one, other, strict=True)
    return any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in sizes)
