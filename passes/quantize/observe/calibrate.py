"""Shows a network images and keeps histograms of its activations.

All tensors are measured in one pass: ONNX Runtime (optimizations off, so that every tensor exists)
gives them out for one batch at a time. Tensors that together would not fit into memory are measured in
several passes over the batch. What was measured is kept in a cache, under the model's and the data's
fingerprints.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data import Feeds, some
from graphopt.ir.graph import Constant, Graph, sweep
from graphopt.passes.quantize.observe.histogram import BINS, Histogram
from graphopt.runtime.run import OrtRunner, open_graph

Array = np.ndarray[Any, Any]

MEMORY = 1 << 30  # bytes of activations at a time
_FORMAT = "1"


@dataclass
class Observed:
    """Histograms by tensor name, over so many batches."""

    histograms: dict[str, Histogram]
    batches: int
    from_cache: bool = False

    def not_finite(self) -> list[str]:
        """The tensors that held NaN or infinities."""
        return [n for n, h in self.histograms.items() if h.not_finite]


def observe(
    graph: Graph,
    names: Sequence[str],
    data: Iterable[Feeds],
    *,
    cache: Path | None = None,
    memory: int = MEMORY,
) -> Observed:
    """Histograms of the tensors called `names` over all batches of `data`.

    Args:
        graph: left as it is.
        names: of its tensors; an input of the graph is measured as it is fed.
        data: can be iterated again.
        cache: a folder for what was measured; none when left out.
        memory: how many bytes of activations to hold at a time.

    Raises:
        UsageError: there is no data.
        RunError: ONNX Runtime cannot run the graph on it.
    """
    names = list(dict.fromkeys(names))
    file = None if cache is None else cache / f"{fingerprint(graph, names, data)}.npz"
    if file is not None and (known := _read(file, names)) is not None:
        return known
    found = Observed({n: Histogram() for n in names}, 0)
    probes: list[OrtRunner] | None = None
    for feeds in some(data):
        probes = probes or _probes(graph, names, feeds, memory)
        found.batches += 1
        for name in names:
            if name in feeds:
                found.histograms[name].add(feeds[name])
        for probe in probes:
            for name, values in probe.run(feeds).items():
                found.histograms[name].add(values)
    if file is not None:
        _write(file, found)
    return found


# --- one batch ------------------------------------------------------------------------------------


def _probes(graph: Graph, names: Sequence[str], feeds: Feeds, memory: int) -> list[OrtRunner]:
    """Sessions that give out the tensors, so many at a time as fit into `memory`."""
    given = {t.name for t in graph.inputs}
    batch = max((v.shape[0] for v in feeds.values() if v.ndim), default=1)
    tensors = graph.tensors()
    parts: list[list[str]] = [[]]
    held = 0
    for name in names:
        if name in given:
            continue
        size = _bytes(tensors[name].shape, batch)
        if parts[-1] and held + size > memory:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return [_probe(graph, part) for part in parts if part]


def _bytes(shape: Any, batch: int) -> int:
    dims = [d if isinstance(d, int) else batch for d in shape or []]
    return 4 * math.prod(dims)


def _probe(graph: Graph, names: Sequence[str]) -> OrtRunner:
    twin = graph.copy()
    tensors = twin.tensors()
    twin.outputs = [tensors[n] for n in names]
    sweep(twin)
    return open_graph(twin)


# --- the cache ------------------------------------------------------------------------------------


def fingerprint(graph: Graph, names: Sequence[str], data: Iterable[Feeds]) -> str:
    """A digest of everything a measurement depends on: graph, weights, tensors, data."""
    digest = hashlib.sha256(f"{_FORMAT}{BINS}{list(names)}".encode())
    for node in graph.nodes:
        attrs = sorted((k, repr(v)) for k, v in node.attrs.items())
        names_of = [[t.name for t in ts] for ts in (node.inputs, node.outputs)]
        digest.update(f"{node.domain}{node.op}{attrs}{names_of}".encode())
    for name, tensor in sorted(graph.tensors().items()):
        if isinstance(tensor, Constant):
            _update(digest, name, tensor.values)
    for feeds in data:
        for name, values in sorted(feeds.items()):
            _update(digest, name, values)
    return digest.hexdigest()


def _update(digest: Any, name: str, values: Array) -> None:
    digest.update(f"{name}{values.dtype}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())


def _read(file: Path, names: Sequence[str]) -> Observed | None:
    """What the file holds; None where it is absent or damaged, which is measured again."""
    try:
        with np.load(file, allow_pickle=False) as held:
            batches = int(held["batches"])
            states = {
                n: {k: held[f"{i}/{k}"] for k in ("counts", "numbers", "tallies")}
                for i, n in enumerate(names)
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Observed({n: Histogram.from_state(s) for n, s in states.items()}, batches, True)


def _write(file: Path, found: Observed) -> None:
    arrays: dict[str, Any] = {
        f"{i}/{k}": v for i, h in enumerate(found.histograms.values()) for k, v in h.state().items()
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.stem}.{os.getpid()}.part.npz")
        np.savez_compressed(beside, batches=np.asarray(found.batches), **arrays)
        beside.replace(file)
    except OSError:
        return  # a cache that cannot be written costs time, not results
