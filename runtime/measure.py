"""Measures models on this machine as their users run them: ONNX Runtime with all its optimizations.

Machines are shared and noisy, so two models are run in turn, A B A B, and the ratio is the median of
the ratios of neighbours; a slow minute then hits both. On one thread the processor time of that
thread is taken instead of the wall clock, which leaves out the turns others had on the core.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.runtime.run import Feeds, OrtRunner, open_file, session_options

_MIN_RUNS, _MAX_RUNS = 5, 200
_PROFILED_RUNS = 3
_KEEP_OPEN_BYTES = 200_000_000


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds. `ratio` is after/before: below 1 is faster."""

    before_ms: float
    after_ms: float
    ratio: float
    runs: int
    threads: int


def compare_latency(
    before: Path,
    after: Path,
    feeds: Feeds,
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    keep_open: bool = False,
) -> Latency:
    """Runs two models in turn on the same inputs for about `seconds`.

    Large models are opened for each turn, to save memory, unless `keep_open`.

    Raises:
        RunError: ONNX Runtime cannot load or run one of them.
    """
    threads = threads or os.cpu_count() or 1
    models = [_Model(p, threads) for p in (before, after)]
    if keep_open or sum(p.stat().st_size for p in (before, after)) < _KEEP_OPEN_BYTES:
        for model in models:
            model.keep_open()
    times = interleaved(models, feeds, seconds)
    ratios = [b / a for a, b in zip(times[0], times[1], strict=True)]
    first, second = (statistics.median(t) * 1e3 for t in times)
    return Latency(first, second, statistics.median(ratios), len(ratios), threads)


class _Model:
    """A model to be timed. Large ones are opened for each turn: two at once would fill the memory."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        self._runner: OrtRunner | None = None

    def keep_open(self) -> None:
        self._runner = open_file(self._path, optimized=True, threads=self._threads)

    def time(self, feeds: Feeds) -> float:
        """Seconds for one run, after one that is not counted when the model had to be opened."""
        runner = self._runner
        if runner is None:
            runner = open_file(self._path, optimized=True, threads=self._threads)
            runner.run(feeds)
        clock = time.thread_time if self._threads == 1 else time.perf_counter
        started = clock()
        runner.run(feeds)
        return clock() - started


def interleaved(models: Sequence[_Model], feeds: Feeds, seconds: float) -> list[list[float]]:
    """Seconds per run of each model, run in turn; the first round is warm-up and not counted."""
    times: list[list[float]] = [[] for _ in models]
    for model in models:
        model.time(feeds)
    deadline = time.perf_counter() + seconds
    for k in range(_MAX_RUNS):
        if k >= _MIN_RUNS and time.perf_counter() > deadline:
            break
        # Taking turns at going first keeps "the second run finds warm caches" out of the ratio.
        order = range(len(models)) if k % 2 == 0 else range(len(models) - 1, -1, -1)
        for i in order:
            times[i].append(models[i].time(feeds))
    return times


def operator_shares(path: Path, feeds: Feeds) -> dict[str, float]:
    """The share of running time each operator type takes, from ONNX Runtime's own profile."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(optimized=True, threads=None)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(_PROFILED_RUNS):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, float] = {}
    for event in events:
        op = event.get("args", {}).get("op_name")
        if op and event["name"].endswith("_kernel_time"):
            spent[op] = spent.get(op, 0.0) + event["dur"]
    total = sum(spent.values()) or 1.0
    return {op: t / total for op, t in sorted(spent.items(), key=lambda kv: -kv[1])}
