"""Kernels of rows: moved exactly, and products as numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import BIG, MACHINES, Stored, Values, call, compiled

from graphopt.runtime.kernels.channels_last import BlockPixels, UnblockPixels
from graphopt.runtime.kernels.rows_product import RowsProduct
from graphopt.runtime.kernels.rows_softmax import RowsSoftmax
from graphopt.runtime.lower import choose

EVERY = pytest.mark.parametrize("machine", MACHINES)


def random(*shape: int) -> Values:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def guarded(size: int) -> Values:
    return np.full(size + BIG, np.nan, np.float32)


@EVERY
@pytest.mark.parametrize("channels", [3, 16, 21, 48])
def test_pixels_there_and_back(channels: int, machine: str, tmp_path: Path) -> None:
    kind = MACHINES[machine]
    x = random(4, 7, channels)
    stored = Stored(channels, 4, 7, kind.lanes, 1, 2, 3)
    there = BlockPixels(kind, channels, 4, 7, stored.strides)
    back = UnblockPixels(kind, channels, 4, 7, stored.strides)
    library = compiled({"there": there, "back": back}, tmp_path)
    source = np.concatenate([x.reshape(-1), guarded(0)])
    call(library.there, [source, stored.pixels], 0, there.parts)
    padded = np.zeros((4, 7, stored.blocks * kind.lanes), np.float32)
    padded[:, :, :channels] = x
    right = padded.reshape(4, 7, stored.blocks, kind.lanes).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(stored.view, right)
    found = guarded(x.size)
    call(library.back, [stored.pixels, found], 0, back.parts)
    np.testing.assert_array_equal(found[: x.size].reshape(x.shape), x)
    assert np.isnan(found[x.size :]).all()


SIZES = [(1, 5, 16), (7, 16, 33), (37, 64, 37), (12, 3, 100), (9, 33, 17), (5, 40, 64)]


@EVERY
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("shared", ["none", "a", "b"])
def test_products(size: tuple[int, int, int], shared: str, machine: str, tmp_path: Path) -> None:
    """Parts in two calls, as two threads do; nothing is read or written outside."""
    kind, (rows, depth, columns) = MACHINES[machine], size
    a = random(1 if shared == "a" else 3, rows, depth)
    b = random(1 if shared == "b" else 3, depth, columns) + 1
    steps = (0 if shared == "a" else rows * depth, 0 if shared == "b" else depth * columns)
    tile = choose.rows_product(kind, rows, columns)
    kernel = RowsProduct(kind, rows, depth, columns, 3, steps, *tile)
    library = compiled({"product": kernel}, tmp_path)
    found = guarded(3 * rows * columns)
    given = [np.concatenate([v.reshape(-1), guarded(0)]) for v in (a, b)]
    middle = kernel.parts // 2
    call(library.product, [*given, found], 0, middle)
    call(library.product, [*given, found], middle, kernel.parts)
    right = (a.astype(np.float64) @ b.astype(np.float64)).reshape(-1)
    np.testing.assert_allclose(found[: right.size], right, rtol=1e-5, atol=1e-5)
    assert np.isnan(found[right.size :]).all()


@EVERY
@pytest.mark.parametrize("columns", [16, 17, 31, 32, 33, 47, 63, 64, 100, 197])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 6])
def test_every_column_is_computed(columns: int, vectors: int, machine: str) -> None:
    kernel = RowsProduct(MACHINES[machine], 4, 4, columns, 1, (0, 0), vectors, 2)
    lanes = MACHINES[machine].lanes
    covered = {
        first + index * wide * lanes + i
        for first, count, wide in kernel.column_tiles()
        for index in range(count)
        for i in range(wide * lanes)
    }
    assert covered == set(range(columns))


@EVERY
@pytest.mark.parametrize("columns", [16, 17, 31, 48, 197])
def test_softmax(columns: int, machine: str, tmp_path: Path) -> None:
    """Also where numbers are large, far apart, or masked by minus infinity."""
    x = random(6, columns) * 4
    x[1] += 3e4
    x[2, ::2] = -np.inf
    x[3, -1] = 500
    x[4] = -1e30
    kernel = RowsSoftmax(MACHINES[machine], 6, columns)
    library = compiled({"softmax": kernel}, tmp_path)
    found = guarded(x.size)
    source = np.concatenate([x.reshape(-1), guarded(0)])
    call(library.softmax, [source, found], 0, 2)
    call(library.softmax, [source, found], 2, kernel.parts)
    wide = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    right = wide / wide.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found[: x.size].reshape(x.shape), right, rtol=2e-6, atol=1e-30)
    assert np.isnan(found[x.size :]).all()
