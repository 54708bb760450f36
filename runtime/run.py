"""Runs a model on this machine: ONNX Runtime, or onnx.reference where that cannot.

The reference for every comparison is ONNX Runtime with its own optimizations off: its default ones
are wrong on some graphs (Pad + MaxPool on negative values, for one), and a wrong judge is no judge.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from graphopt.errors import RunError
from graphopt.ir.graph import Graph
from graphopt.ir.proto import stream, to_proto

Feeds = Mapping[str, "np.ndarray[Any, Any]"]
Outputs = dict[str, Any]

# onnx.reference is plain numpy: above this size it takes minutes for one run.
REFERENCE_MAC_LIMIT = 500_000_000


class Runner(Protocol):
    """Something that runs one model."""

    name: str

    def run(self, feeds: Feeds) -> Outputs:
        """The model's outputs by name."""


class OrtRunner:
    """One ONNX Runtime session on the CPU."""

    name = "onnxruntime"

    def __init__(self, session: Any, held: list[Any]) -> None:
        self._session = session
        self._held = held  # arrays the session reads without owning them
        self._outputs = [o.name for o in session.get_outputs()]

    def run(self, feeds: Feeds) -> Outputs:
        """The model's outputs by name; RunError with ONNX Runtime's words when it fails."""
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:  # ONNX Runtime raises its own unexported exception types
            raise RunError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


class ReferenceRunner:
    """onnx.reference: slow, independent of ONNX Runtime."""

    name = "onnx.reference"

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(model)
        except Exception as error:  # onnx.reference has no common error type either
            raise RunError(f"onnx.reference cannot load it: {_first_line(error)}") from error
        self._outputs = [o.name for o in model.graph.output]

    def run(self, feeds: Feeds) -> Outputs:
        """The model's outputs by name; RunError when an operator is missing or fails."""
        try:
            with np.errstate(all="ignore"):
                values = self._evaluator.run(None, dict(feeds))
        except Exception as error:
            raise RunError(f"onnx.reference failed: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


def open_graph(graph: Graph, *, optimized: bool = False, threads: int | None = None) -> OrtRunner:
    """A session over the graph's own arrays: no weight is copied."""
    model, arrays = to_proto(graph, hollow=True)
    return open_proto(model, arrays, optimized=optimized, threads=threads)


def open_proto(
    model: onnx.ModelProto,
    arrays: Mapping[str, Any],
    *,
    optimized: bool = False,
    threads: int | None = None,
) -> OrtRunner:
    """A session over a hollow proto and the arrays left out of it."""
    import onnxruntime as ort

    options = session_options(optimized=optimized, threads=threads)
    present = {t.name for t in model.graph.initializer}
    names = [n for n in arrays if n in present]
    held = [np.ascontiguousarray(arrays[n]) for n in names]
    options.add_external_initializers(names, [ort.OrtValue.ortvalue_from_numpy(a) for a in held])
    return OrtRunner(_session(model.SerializeToString(), options), held)


def open_file(path: Path, *, optimized: bool = False, threads: int | None = None) -> OrtRunner:
    """A session over a file, loaded as any user of the file would load it."""
    return OrtRunner(_session(str(path), session_options(optimized=optimized, threads=threads)), [])


def open_reference(graph: Graph, macs: int) -> ReferenceRunner:
    """onnx.reference over the graph, when it is small enough for that."""
    if macs > REFERENCE_MAC_LIMIT:
        raise RunError(f"onnx.reference would take too long ({macs / 1e9:.1f} GMAC)")
    model, arrays = to_proto(graph, hollow=True)
    return ReferenceRunner(onnx.ModelProto.FromString(b"".join(stream(model, arrays))))


def session_options(*, optimized: bool, threads: int | None) -> Any:
    """ONNX Runtime's options: all of its optimizations or none, and so many threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _session(model: bytes | str, options: Any) -> Any:
    import onnxruntime as ort

    try:
        with _quiet_stderr():
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own unexported exception types
        raise RunError(f"ONNX Runtime cannot load it: {_first_line(error)}") from error


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    # Schema errors are printed by ONNX Runtime's C++ side on top of being raised.
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
