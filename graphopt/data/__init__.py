"""Calibration data: what a network is shown to learn about its activations, in batches.

    data = load_data("images/", graph, preprocess="letterbox, rgb, scale=1/255", batch=8)
    for feeds in data:  # {input's name: array}; can be iterated again, in the same order
        ...

Images and .npy files are read as they are needed, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from graphopt.data.images import Preprocess, find_images, preprocess_for
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Tensor
from graphopt.named import unknown

__all__ = ["Data", "Feeds", "Preprocess", "Samples", "load_data", "load_samples", "some"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Feeds: TypeAlias = "dict[str, Array]"

_DEFAULT_BATCH = 4
_Batch = TypeVar("_Batch")


class Data:
    """Batches of inputs for a graph; iterating again gives the same ones."""

    def __init__(self, batches: Callable[[], Iterator[Feeds]], what: str) -> None:
        """`batches` starts from the first batch every time; `what` says where they come from."""
        self._batches = batches
        self.what = what

    def __iter__(self) -> Iterator[Feeds]:
        return self._batches()


def load_data(
    source: str | Path | Samples | Iterable[Any],
    graph: Graph,
    *,
    preprocess: str | Preprocess = "",
    batch: int | None = None,
    limit: int | None = None,
) -> Data:
    """Calibration data for a graph.

    Args:
        source: a folder of images (searched to every depth, in the order of names), one image, an
            .npy file (all samples along its first axis), an .npz file (so for each input by name,
            or with a single array), one batch by input name, `Samples`, or an iterable of samples
            (arrays without the batch axis), batches (arrays with it) or batches by input name.
        graph: whose inputs are fed.
        preprocess: for images; what it leaves out follows from the input: its size, layout and
            channels, and no scaling for integer inputs.
        batch: how many samples at a time, 4 if left out; a model that fixes it has its way. The
            last batch may be smaller; where the model fixes it, its last sample is repeated.
        limit: how many samples (of a source of batches: batches) to use at most.

    Raises:
        UsageError: nothing there, nothing that can be read, or nothing that fits; for files and
            arrays that are read later, when iterating.
    """
    size = _batch_size(graph, batch)
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit} leaves no calibration data; it is at least 1")
    if isinstance(source, str | Path | Samples):
        samples = load_samples(source, graph, preprocess=preprocess)
        count = len(samples) if limit is None else min(limit, len(samples))
        return Data(
            lambda: _batches(map(samples.__getitem__, range(count)), size, graph), samples.what
        )
    if not isinstance(source, Iterable):
        raise UsageError(f"calibration data cannot be made from {type(source).__name__}")
    again = _restartable([source] if isinstance(source, Mapping) else source)
    return Data(lambda: _from_items(again(), graph, size, limit), "arrays")


def some(data: Iterable[_Batch]) -> Iterator[_Batch]:
    """The same batches, of which there has to be one.

    Raises:
        UsageError: there is none, when the first is asked for.
    """
    empty = True
    for feeds in data:
        empty = False
        yield feeds
    if empty:
        raise UsageError("there are no calibration images to measure activations on")


class Samples:
    """Single inputs of a graph by number, read when asked for; any process may ask."""

    def __init__(self, count: int, read: Callable[[int], Feeds], what: str) -> None:
        """`read(i)` gives sample i by input name, without the batch axis; `what` says whence."""
        self._count, self._read = count, read
        self.what = what

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Feeds:
        if not 0 <= index < self._count:
            raise IndexError(f"{self.what} has {self._count} samples")
        return self._read(index)


def load_samples(
    source: str | Path | Samples | Iterable[Any],
    graph: Graph,
    *,
    preprocess: str | Preprocess = "",
) -> Samples:
    """The samples of a source in any order, as training wants them.

    Args:
        source: as for `load_data`, or a text file with the path of an image per line; iterables
            are read into memory.
        graph: whose inputs are fed.
        preprocess: for images, as for `load_data`.

    Raises:
        UsageError: nothing there, nothing that can be read, or nothing that fits; an image that
            cannot be read is named when it is asked for.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, str | Path):
        return _samples_of(Path(source), graph, preprocess)
    if not isinstance(source, Iterable):
        raise UsageError(f"training data cannot be made from {type(source).__name__}")
    rank = len(graph.inputs[0].shape or ())
    feeds: list[Feeds] = []
    for item in [source] if isinstance(source, Mapping) else source:
        found = _as_feeds(item, graph)
        whole = next(iter(found.values())).ndim == rank
        feeds += list(_rows_of(found)) if whole else [found]
    if not feeds:
        raise UsageError("training data: there are no samples")
    return Samples(len(feeds), feeds.__getitem__, "arrays")


def _samples_of(path: Path, graph: Graph, preprocess: str | Preprocess) -> Samples:
    if not path.exists():
        raise UsageError(f"calibration data {path}: no such file or folder")
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        arrays = _read_arrays(path, graph)
        count = len(next(iter(arrays.values())))
        return Samples(count, lambda i: {n: np.asarray(a[i]) for n, a in arrays.items()}, str(path))
    images = find_images(path)
    name = _only_input(graph, f"images of {path}")
    how = preprocess_for(graph, preprocess)
    return Samples(len(images), lambda i: {name: how.apply(images[i])}, str(path))


def _from_items(
    items: Iterator[Any], graph: Graph, size: int, limit: int | None
) -> Iterator[Feeds]:
    first = next(items, None)
    if first is None:
        return
    feeds = (_as_feeds(i, graph) for i in islice(chain([first], items), limit))
    rank = len(graph.inputs[0].shape or ())
    if isinstance(first, Mapping) or np.ndim(first) == rank:
        yield from (_fitted(f, graph) for f in feeds)
    else:
        yield from _batches(feeds, size, graph)


# --- batches --------------------------------------------------------------------------------------


def _batches(samples: Iterator[Feeds], size: int, graph: Graph) -> Iterator[Feeds]:
    while held := list(islice(samples, size)):
        if _fixed_batch(graph):
            held += [held[-1]] * (size - len(held))
        yield _fitted({n: _stacked(n, [s[n] for s in held]) for n in held[0]}, graph)


def _stacked(name: str, samples: list[Array]) -> Array:
    shapes = list(dict.fromkeys(s.shape for s in samples))
    if len(shapes) > 1:
        both = f"{shapes[0]} and {shapes[1]}"
        raise UsageError(f"calibration data: samples for {name!r} have shapes {both}")
    return np.stack(samples)


def _batch_size(graph: Graph, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise UsageError(f"batch={asked} holds no sample; it is at least 1")
    return _fixed_batch(graph) or asked or _DEFAULT_BATCH


def _fixed_batch(graph: Graph) -> int | None:
    sizes = {t.shape[0] for t in graph.inputs if t.shape}
    fixed = [s for s in sizes if isinstance(s, int)]
    return int(fixed[0]) if len(sizes) == len(fixed) == 1 else None


def _fitted(feeds: Feeds, graph: Graph) -> Feeds:
    """The feeds in the inputs' types, after checking names and shapes."""
    names = [t.name for t in graph.inputs]
    for name in feeds:
        if name not in names:
            raise UsageError(f"calibration data: {unknown('input', name, names)}")
    missing = [n for n in names if n not in feeds]
    if missing:
        raise UsageError(f"calibration data has nothing for input {', '.join(map(repr, missing))}")
    return {t.name: _fitted_array(feeds[t.name], t) for t in graph.inputs}


def _fitted_array(value: Array, tensor: Tensor) -> Array:
    shape = tensor.shape
    if shape is not None:
        pairs = zip(value.shape, shape, strict=False)
        if value.ndim != len(shape) or any(isinstance(d, int) and n != d for n, d in pairs):
            raise UsageError(
                f"calibration data for {tensor.name!r} has shape {value.shape}; the model wants "
                f"({', '.join(map(str, shape))})"
            )
    dtype = np.dtype(tensor.dtype)
    # Images are made as floats and may be meant as bytes: whole numbers lose nothing.
    is_fraction = value.dtype.kind == "f" and dtype.kind in "biu"
    is_number = value.dtype.kind in "biuf"
    if not is_number or (is_fraction and not np.array_equal(value, np.rint(value))):
        raise UsageError(f"calibration data for {tensor.name!r} is {value.dtype}, not {dtype}")
    return np.ascontiguousarray(value.astype(dtype, copy=False)).reshape(value.shape)


def _as_feeds(item: Any, graph: Graph) -> Feeds:
    if isinstance(item, Mapping):
        return {str(k): np.asarray(v) for k, v in item.items()}
    return {_only_input(graph, "an array without a name"): np.asarray(item)}


def _only_input(graph: Graph, what: str) -> str:
    names = [t.name for t in graph.inputs]
    if len(names) != 1:
        raise UsageError(
            f"{what} cannot feed {len(names)} inputs ({', '.join(names)}); give arrays by name, in "
            "an .npz file or as mappings"
        )
    return str(names[0])


def _restartable(source: Iterable[Any]) -> Callable[[], Iterator[Any]]:
    started: list[bool] = []

    def start() -> Iterator[Any]:
        if started and isinstance(source, Iterator):
            raise UsageError("calibration data can be read only once; give a list instead")
        started.append(True)
        return iter(source)

    return start


# --- array files ----------------------------------------------------------------------------------


def _read_arrays(path: Path, graph: Graph) -> dict[str, Array]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        is_single = isinstance(loaded, np.ndarray)
        arrays: dict[str, Array] = {"": loaded} if is_single else dict(loaded)
    except Exception as error:  # numpy passes on what zipfile, zlib and struct raise
        raise UsageError(f"calibration data {path} cannot be read: {error}") from error
    if len(arrays) == 1 and len(graph.inputs) == 1:
        arrays = {graph.inputs[0].name: next(iter(arrays.values()))}
    elif is_single:
        _only_input(graph, f"the one array of {path}")
    lengths = {n: len(a) if a.ndim else 0 for n, a in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise UsageError(f"calibration data {path}: the arrays hold {lengths} samples")
    return arrays


def _rows_of(arrays: Mapping[str, Array]) -> Iterator[Feeds]:
    for i in range(len(next(iter(arrays.values())))):
        yield {name: np.asarray(a[i]) for name, a in arrays.items()}
