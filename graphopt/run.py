"""Runs a bundle or a model on arrays from files, timed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import LoadError, SaveError, UsageError
from graphopt.frontends.onnx_file import load
from graphopt.named import unknown
from graphopt.runtime.deploy.digest import draw
from graphopt.runtime.lower.program import Place, Port
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.native import Layer, NativeRunner, open_bundle, read_manifest
from graphopt.runtime.run import Feeds, Outputs, open_file


def run_path(
    path: Path,
    given: Sequence[str],
    wanted: Sequence[str],
    *,
    threads: int | None = None,
    iters: int = 1,
    profile: bool = False,
) -> dict[str, Any]:
    """Runs the bundle or ONNX file at `path`.

    Args:
        path: a folder, or a file.
        given: "name=x.npy", or "x.npy" for the first input, the second, ...
        wanted: outputs to be written, in the same way.
        threads: how many compute.
        iters: timed runs, after one that is not.
        profile: measure layers too.

    Returns:
        What the command line prints.

    Raises:
        LoadError, UsageError, RunError, SaveError: see there.
    """
    if not path.is_dir():
        if profile:
            raise UsageError(f"{path} is no bundle: layers are timed of compiled models only")
        return _run_model(path, given, wanted, threads or os.cpu_count() or 1, iters)
    manifest = read_manifest(path)
    inputs, outputs = (_named_ports(manifest[k]) for k in ("inputs", "outputs"))
    feeds, files = _feeds(inputs, given), _files(outputs, wanted)
    runner = open_bundle(path, threads=threads)
    if not isinstance(runner, NativeRunner):
        if profile or iters > 1:
            raise UsageError(
                f"{path} is for {manifest['target']} and runs in an emulator here, whose times say "
                "nothing of the board: there, `./run --profile` tells"
            )
        return _told(runner.name, threads or manifest["threads"], runner.run(feeds), files)
    found, times = _timed(lambda: runner.run(feeds), iters)
    layers = _profiled(runner, feeds, iters) if profile else []
    return _told("compiled", runner.threads, found, files, times, layers)


def _run_model(
    path: Path, given: Sequence[str], wanted: Sequence[str], threads: int, iters: int
) -> dict[str, Any]:
    graph = load(path)
    fix_sizes(graph)
    inputs = [_port(t.name, t.shape, np.dtype(t.dtype).name) for t in graph.inputs]
    feeds = _feeds(inputs, given)
    files = _files([_port(t.name, (), "") for t in graph.outputs], wanted)
    runner = open_file(path, optimized=True, threads=threads)
    found, times = _timed(lambda: runner.run(feeds), iters)
    return _told("ONNX Runtime", threads, found, files, times)


def _timed(run: Callable[[], Outputs], iters: int) -> tuple[Outputs, list[float]]:
    found = run()
    times = []
    for _ in range(iters):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return found, times


def _profiled(runner: NativeRunner, feeds: Feeds, iters: int) -> list[Layer]:
    """Medians over the runs."""
    runs = [runner.profile(feeds)[1] for _ in range(iters)]
    return [
        Layer(same[0].name, statistics.median(v.ms for v in same), same[0].macs)
        for same in zip(*runs, strict=True)
    ]


def _told(
    ran: str,
    threads: int,
    outputs: Outputs,
    files: Mapping[str, Path],
    times: Sequence[float] = (),
    layers: Sequence[Layer] = (),
) -> dict[str, Any]:
    for name, path in files.items():
        try:
            with path.open("wb") as file:
                np.save(file, outputs[name])
        except OSError as error:
            raise SaveError(f"cannot write {path}: {error.strerror}") from error
    ms = None
    if times:
        ms = {"median": statistics.median(times), "least": min(times), "runs": len(times)}
    return {
        "ran": ran,
        "threads": threads,
        "ms": ms,
        "layers": [asdict(v) for v in layers],
        "outputs": [_summary(name, np.asarray(v)) for name, v in outputs.items()],
        "written": {name: str(path) for name, path in files.items()},
    }


def _summary(name: str, values: np.ndarray[Any, Any]) -> dict[str, Any]:
    wide = values.astype(np.float64) if values.size else np.zeros(1)
    return {
        "name": name,
        "dtype": str(values.dtype),
        "shape": list(values.shape),
        "least": float(wide.min()),
        "mean": float(wide.mean()),
        "most": float(wide.max()),
    }


def _feeds(ports: Sequence[Port], given: Sequence[str]) -> Feeds:
    files = _files(ports, given, "input")
    return {
        port.name: _read(files[port.name]) if port.name in files else draw(port, index)
        for index, port in enumerate(ports)
    }


def _files(ports: Sequence[Port], texts: Sequence[str], kind: str = "output") -> dict[str, Path]:
    """Files by the name of their input or output; those without a name in order."""
    names = [p.name for p in ports]
    found: dict[str, Path] = {}
    for index, text in enumerate(texts):
        name, equals, path = text.rpartition("=")
        if not equals:
            if index >= len(names):
                raise UsageError(f"--{kind} {text}: there are no more than {len(names)}")
            name = names[index]
        if name not in names:
            raise UsageError(unknown(kind, name, names))
        found[name] = Path(path)
    return found


def _read(path: Path) -> np.ndarray[Any, Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise LoadError(f"{path} is no .npy file: {str(error).splitlines()[0]}") from error
    if not isinstance(found, np.ndarray):
        raise LoadError(f"{path} holds several arrays; give an .npy file")
    return found


def _named_ports(found: Sequence[Mapping[str, Any]]) -> list[Port]:
    return [_port(p["name"], p["shape"], p["dtype"]) for p in found]


def _port(name: str, shape: Sequence[int], dtype: str) -> Port:
    return Port(name, tuple(shape), dtype, Place(None))
