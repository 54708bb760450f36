"""From a model file to an ONNX file for a board: optimized, in its precision, in what is read there.

For boards whose ONNX files are read by something else than ONNX Runtime (TensorRT 8.2 on tx2-gpu) the
operators are those it knows; a node that cannot be written in them is an error that names it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import RunError, UnsupportedError, UsageError, VerificationError
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.graph import Graph, label
from graphopt.oracle import Oracle, Verdict
from graphopt.pass_base import Pass
from graphopt.passes.lower.lower_opset import LowerOpset
from graphopt.passes.quantize.to_float16 import ToFloat16
from graphopt.pipeline import Pipeline, Progress, silent
from graphopt.registry import default_passes
from graphopt.runtime.board import Target
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.lower.sizes import fix_sizes

_TOLERANCE = {"float32": 1e-4, "float16": 5e-2}


@dataclass(frozen=True)
class ExportedModel:
    """The file that was written.

    Attributes:
        reader: who it is for.
        error: the worst of any output against ONNX Runtime's on the model as it was given.
        notes: what else a user should know.
    """

    path: Path
    target: str
    reader: str
    opset: int
    precision: str
    nodes: int
    error: float
    tolerance: float
    notes: tuple[str, ...]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


def export_onnx(
    source: Path,
    output: Path,
    *,
    target: Target,
    sizes: Mapping[str, int] | None = None,
    precision: str | None = None,
    optimize: bool = True,
    replace: bool = False,
    progress: Progress = silent,
) -> ExportedModel:
    """Writes the model in `source` as an ONNX file for a board.

    Args:
        source: an ONNX file.
        output: the other; written when it was proven.
        target: the board.
        sizes: numbers for named dimensions of inputs; a batch without one is 1.
        precision: of what is computed, float32 or float16 (weights are stored in it; inputs and
            outputs stay as they are); if not given float32, and what suits it where the board's own
            reader is known.
        optimize: run the default passes first.
        replace: whether a file that is there may be replaced.
        progress: told what is going on.

    Raises:
        LoadError, UsageError, SaveError: see there.
        UnsupportedError: a node that the board's reader does not know in any spelling.
        VerificationError: it computes something else; nothing is written.
    """
    started = time.perf_counter()
    if output.exists() and not replace:
        raise UsageError(f"{output} exists; --force replaces it")
    if output.resolve() == source.resolve():
        raise UsageError(f"{output} is the model itself; name another file")
    progress("loading")
    graph = load(source)
    fix_sizes(graph, sizes)
    used = _precision(graph, target, precision)
    progress("running the reference")
    try:
        oracle = Oracle(graph)
    except RunError as error:
        raise VerificationError(f"{source}: nothing can be proven about it: {error}") from error
    progress("optimizing")
    outcome = Pipeline(list(_passes(target, used, optimize))).run(graph, oracle=oracle, strict=True)
    made = outcome.graph
    _check_operators(made, target)
    progress("comparing")
    verdict = _proven(oracle, made, _TOLERANCE[used])
    save(made, output)
    return ExportedModel(
        path=output,
        target=target.name,
        reader=target.onnx.name if target.onnx else "ONNX Runtime",
        opset=made.opset,
        precision=used,
        nodes=len(made.nodes),
        error=verdict.error,
        tolerance=verdict.tolerance,
        notes=tuple(_notes(target, used)),
        seconds=time.perf_counter() - started,
    )


def _precision(graph: Graph, target: Target, wanted: str | None) -> str:
    default = target.default_precision if target.onnx is not None else "float32"
    used = target.precision(wanted or default)
    if used not in _TOLERANCE:
        raise UsageError(
            f"{used} is what a network is quantized to: `graphopt quantize` writes that as ONNX"
        )
    if not has_integers(graph):
        return used
    if "int8" in target.unsupported:
        raise UsageError(
            f"the model is quantized, and {target.name} cannot do int8: {target.unsupported['int8']}"
        )
    if used == "float16":
        raise UsageError("what is not quantized of a quantized network stays in float32")
    return used


def _passes(target: Target, precision: str, optimize: bool) -> Iterator[Pass]:
    if optimize:
        yield from default_passes()
    # Before the types change: what an operator is made of is then of one type.
    if target.onnx is not None:
        yield LowerOpset(opset=target.onnx.opset)
    if precision == "float16":
        yield ToFloat16()


def _check_operators(graph: Graph, target: Target) -> None:
    without = target.onnx.without if target.onnx else ()
    for node in graph.nodes:
        if target.onnx and (node.op in without or node.domain not in (None, "", "ai.onnx")):
            raise UnsupportedError(f"{label(node)}: {target.onnx.name} does not know {node.op}")


def _proven(oracle: Oracle, graph: Graph, tolerance: float) -> Verdict:
    try:
        verdict = oracle.check(graph, tolerance)
    except RunError as error:
        raise VerificationError(f"the result does not run: {error}; nothing was written") from error
    if not verdict.passed:
        raise VerificationError(f"the result differs: {verdict}; nothing was written")
    return verdict


def _notes(target: Target, used: str) -> Iterator[str]:
    if target.onnx is not None and used == "float16":
        yield f"build the engine with float16 allowed: trtexec --onnx=MODEL --fp16 ({target.onnx.name})"
