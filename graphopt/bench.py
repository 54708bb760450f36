"""Models and bundles side by side at one place: this machine, an emulated core, a board.

On this machine every ONNX file is also run by ONNX Runtime, in the same run on the same inputs. An
emulator gives instructions and estimated cycles, which are no times.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphopt.compile import CompiledModel, compile_file
from graphopt.errors import UsageError
from graphopt.oracle import errors_of
from graphopt.pipeline import Progress, silent
from graphopt.runtime.deploy.digest import draw
from graphopt.runtime.lower.program import Place as Memory
from graphopt.runtime.lower.program import Port
from graphopt.runtime.native import Manifest, NativeRunner, read_manifest
from graphopt.runtime.places.emulated import counts_of
from graphopt.runtime.places.figures import Counts, Times
from graphopt.runtime.places.place import Place
from graphopt.runtime.places.rpc import times_over_rpc
from graphopt.runtime.places.ssh import times_over_ssh
from graphopt.runtime.places.turns import in_turns, ratio
from graphopt.runtime.run import Feeds, Runner, open_file


@dataclass(frozen=True)
class Row:
    """One engine on one model.

    Attributes:
        engine: graphopt or ONNX Runtime.
        figures: what it took; Counts for an emulated place.
        error: the worst of any output against ONNX Runtime's; None where nothing was compared.
        speed: how many times as fast as the first row; for Counts in cycles.
        note: what else is to be said.
    """

    model: str
    engine: str
    figures: Times | Counts
    error: float | None = None
    speed: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Options:
    """How models are compiled, and how long and on how many threads they run."""

    abi: str | None = None
    precision: str | None = None
    toolchain: str | None = None
    sizes: Mapping[str, int] | None = None
    threads: int | None = None
    seconds: float = 5.0
    iters: int = 50


def bench(
    subjects: Sequence[Path],
    place: Place,
    options: Options | None = None,
    *,
    progress: Progress = silent,
) -> list[Row]:
    """A row for every engine on every subject, the first of which is what others are compared with.

    Args:
        subjects: ONNX files, which are compiled for the place, and bundles for its board.
        place: where to run.
        options: see there.
        progress: told what is going on.

    Raises:
        LoadError, UsageError, UnsupportedError, ToolchainError, VerificationError: see `compile_file`.
        RunError: a board cannot be reached, or something fails there.
    """
    how = options or Options()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        every = [
            _subject(path, place, how, Path(name) / str(i), progress)
            for i, path in enumerate(subjects)
        ]
        if place.kind == "host":
            return _here(every, how, progress)
        rows = [_there(each, place, how, progress) for each in every]
    return [_compared(row, rows[0]) for row in rows]


def document(place: Place, rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as JSON has them."""
    return {"place": str(place), "rows": [{**asdict(r), **_totals(r.figures)} for r in rows]}


def _totals(figures: Times | Counts) -> dict[str, Any]:
    if isinstance(figures, Times):
        return {}
    return {
        "instructions": figures.instructions,
        "cycles": figures.cycles,
        "limit": figures.limit,
    }


@dataclass(frozen=True)
class _Subject:
    """A model or bundle, compiled where that was needed.

    Attributes:
        made: the bundle or library.
        model: the ONNX file; None for a bundle.
    """

    name: str
    made: Path
    manifest: Manifest
    model: Path | None = None
    compiled: CompiledModel | None = None

    def feeds(self) -> Feeds:
        """The inputs that the bundle's runner draws."""
        return {
            p["name"]: draw(Port(p["name"], tuple(p["shape"]), p["dtype"], Memory(None)), i)
            for i, p in enumerate(self.manifest["inputs"])
        }


def _subject(
    path: Path, place: Place, options: Options, folder: Path, progress: Progress
) -> _Subject:
    if path.is_dir():
        manifest = read_manifest(path)
        made_for = str(manifest["target"])
        if made_for != place.board.name:
            raise UsageError(f"{path} is for {made_for}, not for {place.board.name}")
        if place.kind == "rpc":
            raise UsageError(f"{path} is a bundle; what TVM's server runs is made of the ONNX file")
        return _Subject(path.name, path, manifest)
    # Over ssh and RPC it is compared where it runs.
    verify = None if place.kind in ("host", "emulated") else False
    folder.mkdir()
    compiled = compile_file(
        path,
        folder / ("library.so" if place.kind == "rpc" else "bundle"),
        target=place.board,
        form="tvm" if place.kind == "rpc" else "bundle",
        abi=options.abi or (place.board.emulated_abi if place.kind == "emulated" else None),
        sizes=options.sizes,
        precision=options.precision,
        toolchain=options.toolchain,
        verify=verify,
        progress=lambda stage: progress(f"{path.name}: {stage}"),
    )
    return _Subject(path.name, compiled.path, compiled.manifest, path, compiled)


def _here(subjects: Sequence[_Subject], options: Options, progress: Progress) -> list[Row]:
    openers: list[Callable[[], Runner]] = []
    heads: list[tuple[_Subject, str]] = []
    for each in subjects:
        if each.model is not None:
            openers.append(_opens_model(each.model, options.threads))
            heads.append((each, "ONNX Runtime"))
        openers.append(_opens_bundle(each.made, options.threads))
        heads.append((each, "graphopt"))
    feeds = [each.feeds() for each, _ in heads]
    progress("measuring")
    timed = in_turns(openers, feeds, options.seconds)
    rows = []
    for (each, engine), opener, feed, time in zip(heads, openers, feeds, timed, strict=True):
        runner = opener()
        threads, layers = options.threads or os.cpu_count() or 1, []
        compiled = each.compiled if engine == "graphopt" else None
        if isinstance(runner, NativeRunner):
            threads, layers = runner.threads, runner.profile(feed)[1]
        times = Times(1e3 * time.median, 1e3 * time.least, time.runs, threads, layers)
        error = None if compiled is None else compiled.error
        rows.append(Row(each.name, engine, times, error, ratio(timed[0], time), _notes(compiled)))
    return rows


def _opens_model(path: Path, threads: int | None) -> Callable[[], Runner]:
    return lambda: open_file(path, optimized=True, threads=threads)


def _opens_bundle(path: Path, threads: int | None) -> Callable[[], NativeRunner]:
    # Wherever the system puts them, as ONNX Runtime's threads.
    return lambda: NativeRunner(path, threads=threads, cores=())


def _there(subject: _Subject, place: Place, options: Options, progress: Progress) -> Row:
    progress(f"{subject.name}: running on {place}")
    figures: Times | Counts
    error = None if subject.compiled is None else subject.compiled.error
    if place.kind == "emulated":
        figures = counts_of(subject.made, place.board)
    elif place.kind == "ssh":
        figures = times_over_ssh(
            subject.made, place.address, iters=options.iters, threads=options.threads
        )
    else:
        error, figures = _over_rpc(subject, place, options)
    return Row(subject.name, "graphopt", figures, error, None, _notes(subject.compiled))


def _over_rpc(subject: _Subject, place: Place, options: Options) -> tuple[float, Times]:
    assert subject.model is not None  # bundles were refused
    feeds = subject.feeds()
    expected = open_file(subject.model).run(feeds)
    outputs, times = times_over_rpc(
        subject.made, place.address, feeds, iters=options.iters, threads=options.threads
    )
    return max(errors_of(expected, outputs).values(), default=0.0), times


def _notes(compiled: CompiledModel | None) -> str:
    return "; ".join(compiled.notes) if compiled is not None else ""


def _compared(row: Row, first: Row) -> Row:
    sizes = [_size(first.figures), _size(row.figures)]
    if None in sizes:
        return row
    speed = sizes[0] / sizes[1]  # type: ignore[operator]
    return Row(row.model, row.engine, row.figures, row.error, speed, row.note)


def _size(figures: Times | Counts) -> float | None:
    return figures.median if isinstance(figures, Times) else figures.cycles
