"""Inputs that exercise a graph: shapes from the model, integers in range, floats small and large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphopt.errors import RunError
from graphopt.ir.graph import Graph, Variable, is_op
from graphopt.runtime.run import Feeds

# Tried in turn for symbolic dimensions that are not the batch, until the model runs.
_DIM_CANDIDATES = (64, 224, 320, 16, 416, 640, 3, 1)
_BATCHES = (1, 2)


def dim_choices(graph: Graph) -> Iterator[list[dict[str, int]]]:
    """Sizes for the symbolic dimensions, one per sample; later choices are for models that refuse."""
    batch, other = _symbols(graph)
    if not other:
        if batch:
            yield [dict.fromkeys(batch, b) for b in _BATCHES]
        yield [dict.fromkeys(batch, 1)] * 2
        return
    for size in _DIM_CANDIDATES:
        yield [{**dict.fromkeys(other, size), **dict.fromkeys(batch, b)} for b in _BATCHES]
    for size in _DIM_CANDIDATES:
        yield [{**dict.fromkeys(other, size), **dict.fromkeys(batch, 1)}] * 2


def _symbols(graph: Graph) -> tuple[list[str], list[str]]:
    batch: list[str] = []
    other: list[str] = []
    for tensor in graph.inputs:
        for axis, dim in enumerate(tensor.shape or []):
            if isinstance(dim, int):
                continue
            key = dim or f"{tensor.name}/{axis}"
            into = batch if axis == 0 else other
            if key not in batch and key not in other:
                into.append(key)
    return batch, other


def draw(
    graph: Graph,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    *,
    large: bool = False,
    shrink: float = 1.0,
) -> Feeds:
    """Inputs for the graph: integers in range, floats standard normal or large, times `shrink`."""
    feeds: dict[str, Any] = {}
    for tensor in graph.inputs:
        shape = _shape(tensor, sizes)
        drawn = _draw(tensor, shape, rng, large=large, bound=_index_bound(tensor))
        # numpy turns zero-dimensional results into scalars, which ONNX Runtime does not take
        values = np.asarray(drawn)
        feeds[tensor.name] = values if values.dtype.kind in "iub" else _times(values, shrink)
    return feeds


def _times(values: np.ndarray[Any, Any], factor: float) -> np.ndarray[Any, Any]:
    return values if factor == 1 else np.asarray(values * factor, values.dtype)


def _shape(tensor: Any, sizes: Mapping[str, int]) -> list[int]:
    if tensor.shape is None:
        raise RunError(f"input {tensor.name!r} has no shape; give one with --input-shape")
    return [
        d if isinstance(d, int) else sizes[d or f"{tensor.name}/{i}"]
        for i, d in enumerate(tensor.shape)
    ]


def _draw(
    tensor: Any, shape: list[int], rng: np.random.Generator, *, large: bool, bound: int | None
) -> np.ndarray[Any, Any]:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        low, high = _integer_range(dtype, bound)
        return rng.integers(low, high, size=shape, dtype=np.int64).astype(dtype)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        values = rng.uniform(-128, 255, shape) if large else rng.standard_normal(shape)
        return np.asarray(values).astype(dtype)
    raise RunError(f"input {tensor.name!r} has type {dtype}, for which no values can be drawn")


def _integer_range(dtype: np.dtype[Any], bound: int | None) -> tuple[int, int]:
    if bound is not None:
        return 0, bound
    if dtype.itemsize == 1:
        info = np.iinfo(dtype)
        return int(info.min), int(info.max) + 1
    return 0, 10


def _index_bound(tensor: Variable) -> int | None:
    """The smallest dimension the tensor is used as an index into, when it is one."""
    sizes = [
        node.inputs[0].shape[int(node.attrs.get("axis", 0))]
        for node in tensor.outputs
        if is_op(node, "Gather", "GatherElements")
        and node.inputs[1] is tensor
        and node.inputs[0].shape
    ]
    return min((s for s in sizes if isinstance(s, int)), default=None)
