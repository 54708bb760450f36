"""Convolutions of every kind equal a plain one in double precision, and write nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import MACHINES, Stored, Values, call, compiled

from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv, Window
from graphopt.runtime.kernels.pointwise import Apply, Expression, Operand, Strides
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.kernels.winograd import (
    Tiling,
    WinogradInput,
    WinogradOutput,
    WinogradWeight,
)
from graphopt.runtime.lower import weights

RELU = Expression((), (Apply("Relu", (0,)),))


def reference(x: Values, w: Values, b: Values, window: Window, groups: int = 1) -> Values:
    """A convolution with the same padding on all sides, in double precision."""
    made = torch.nn.functional.conv2d(
        torch.tensor(x[None], dtype=torch.float64),
        torch.tensor(w, dtype=torch.float64),
        torch.tensor(b, dtype=torch.float64),
        stride=window.stride,
        padding=window.pads,
        dilation=window.dilation,
        groups=groups,
    )
    return made[0].numpy()


def random(seed: int, *shape: int) -> Values:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(made: Values, wanted: Values, rtol: float = 1e-5) -> None:
    assert np.abs(made - wanted).max() <= rtol * max(1.0, np.abs(wanted).max())


CASES = {
    "3x3": (8, 24, 13, 9, Window((3, 3), pads=(1, 1))),
    "1x1": (20, 17, 5, 7, Window((1, 1))),
    "strided": (5, 33, 14, 15, Window((3, 3), (2, 2), pads=(1, 1))),
    "dilated": (16, 8, 11, 12, Window((3, 3), dilation=(2, 2), pads=(2, 2))),
    "tall": (4, 16, 9, 6, Window((5, 1), (1, 1), pads=(2, 0))),
    "wide_and_uneven": (9, 5, 8, 10, Window((2, 7), (2, 3), pads=(1, 3))),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("vectors", "columns"), [(1, 3), (2, 4), (3, 7)])
def test_direct(case: str, machine: str, vectors: int, columns: int, tmp_path: Path) -> None:
    kind = MACHINES[machine]
    channels, out, height, width, window = CASES[case]
    x, b = random(0, channels, height, width), random(2, out)
    w = random(1, out, channels, *window.kernel) / np.sqrt(channels)
    wanted = np.maximum(reference(x, w, b, window), 0)
    source = Stored(channels, height, width, kind.lanes, 4, 4, 4).put(x)
    sink = Stored(out, *wanted.shape[1:], kind.lanes, 1, 2, 3)
    kernel = DirectConv(
        kind,
        window,
        source.strides,
        sink.strides,
        source.blocks,
        sink.blocks,
        *wanted.shape[1:],
        vectors,
        columns,
        expression=RELU,
    )
    bias = weights.channels(b, kernel.tile_count * vectors * kind.lanes)
    arrays = [source.pixels, weights.direct(w, kind.lanes, vectors), bias, sink.pixels]
    _run(kernel, arrays, tmp_path)
    close(sink.get(), wanted)
    assert np.isnan(sink.outside()).all()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("case", ["3x3", "strided", "wide_and_uneven"])
def test_the_first_layer(case: str, machine: str, tmp_path: Path) -> None:
    kind = MACHINES[machine]
    channels, out, height, width, window = CASES[case]
    x, b = random(0, channels, height, width), random(2, out)
    w = random(1, out, channels, *window.kernel)
    wanted = reference(x, w, b, window)
    source = Stored(channels, height, width, 1, 4, 4, 4).put(x)
    sink = Stored(out, *wanted.shape[1:], kind.lanes)
    kernel = DirectConv(
        kind,
        window,
        source.strides,
        sink.strides,
        channels,
        sink.blocks,
        *wanted.shape[1:],
        2,
        5,
        plain=True,
    )
    bias = weights.channels(b, kernel.tile_count * 2 * kind.lanes)
    _run(kernel, [source.pixels, weights.plain(w, kind.lanes, 2), bias, sink.pixels], tmp_path)
    close(sink.get(), wanted)


@pytest.mark.parametrize("machine", MACHINES)
def test_groups(machine: str, tmp_path: Path) -> None:
    kind = MACHINES[machine]
    lanes, window = kind.lanes, Window((3, 3), pads=(1, 1))
    x, b = random(0, 6 * lanes, 7, 6), random(2, 6 * lanes)
    w = random(1, 6 * lanes, 2 * lanes, 3, 3)
    wanted = reference(x, w, b, window, groups=3)
    source = Stored(6 * lanes, 7, 6, lanes, 1, 1, 1).put(x)
    sink = Stored(6 * lanes, 7, 6, lanes)
    kernel = DirectConv(kind, window, source.strides, sink.strides, 2, 6, 7, 6, 2, 3, groups=3)
    _run(kernel, [source.pixels, weights.direct(w, lanes, 2), b, sink.pixels], tmp_path)
    close(sink.get(), wanted)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("case", CASES)
def test_depthwise(case: str, machine: str, tmp_path: Path) -> None:
    kind = MACHINES[machine]
    _, channels, height, width, window = CASES[case]
    x, b = random(0, channels, height, width), random(2, channels)
    w = random(1, channels, 1, *window.kernel)
    wanted = np.maximum(reference(x, w, b, window, groups=channels), 0)
    source = Stored(channels, height, width, kind.lanes, 4, 4, 4).put(x)
    sink = Stored(channels, *wanted.shape[1:], kind.lanes, 1, 1, 1)
    kernel = DepthwiseConv(
        kind,
        window,
        source.strides,
        sink.strides,
        sink.blocks,
        *wanted.shape[1:],
        3,
        RELU,
    )
    bias = weights.channels(b, sink.blocks * kind.lanes)
    _run(kernel, [source.pixels, weights.depthwise(w, kind.lanes), bias, sink.pixels], tmp_path)
    close(sink.get(), wanted)
    assert np.isnan(sink.outside()).all()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("m", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [(12, 20), (13, 9)])
def test_winograd(m: int, size: tuple[int, int], machine: str, tmp_path: Path) -> None:
    kind, (height, width) = MACHINES[machine], size
    channels, out, window = 20, 24, Window((3, 3), pads=(1, 1))
    x, b = random(0, channels, height, width), random(2, out)
    w = random(1, out, channels, 3, 3) / np.sqrt(9 * channels)
    wanted = np.maximum(reference(x, w, b, window), 0)
    source = Stored(channels, height, width, kind.lanes, 1, 1 + m, 1 + m).put(x)
    sink = Stored(out, height, width, kind.lanes, 1, 1, 1)
    made = _winograd(kind, Tiling(m, height, width, 6), source, sink, (w, b), tmp_path)
    close(made, wanted, rtol=1e-4)
    assert np.isnan(sink.outside()).all()


def _winograd(
    kind: Machine,
    tiling: Tiling,
    source: Stored,
    sink: Stored,
    filters: tuple[Values, Values],
    folder: Path,
) -> Values:
    vectors, (w, b) = 2, filters
    first = WinogradInput(kind, tiling, source.strides, (1, 1), source.blocks)
    second = WinogradOutput(
        kind, tiling, sink.strides, source.blocks, sink.blocks, vectors, 3, RELU
    )
    prepare = WinogradWeight(kind, tiling.m, source.blocks, second.tile_count, vectors)
    library = compiled({"prepare": prepare, "first": first, "second": second}, folder)
    u, d, products = (
        np.full(n, np.nan, np.float32) for n in (prepare.size, first.scratch, second.scratch)
    )
    call(library.prepare, [weights.direct(w, kind.lanes, vectors), u], 0, prepare.parts)
    assert not np.isnan(u).any()
    bias = weights.channels(b, second.tile_count * vectors * kind.lanes)
    for strip in range(tiling.strips):
        call(library.first, [source.pixels, d], strip * first.parts, (strip + 1) * first.parts)
        begin, end = strip * second.parts, (strip + 1) * second.parts
        call(library.second, [d, u, bias, products, sink.pixels], begin, end)
    return sink.get()


def test_an_operand_is_added_where_it_belongs(tmp_path: Path) -> None:
    """A residual sum and a gate per channel, with strides of their own."""
    kind = MACHINES["neon"]
    x, other, gate = random(0, 8, 5, 6), random(1, 12, 5, 6), random(2, 12, 1, 1)
    w, b = random(3, 12, 8, 1, 1), random(4, 12)
    source = Stored(8, 5, 6, 4).put(x)
    added, sink = Stored(12, 5, 6, 4, 2, 1, 2).put(other), Stored(12, 5, 6, 4)
    operands = (Operand("image", added.strides), Operand("channels", Strides(0, 4)))
    steps = (Apply("Add", (0, 1)), Apply("Sigmoid", (3,)), Apply("Mul", (4, 2)))
    kernel = DirectConv(
        kind,
        Window((1, 1)),
        source.strides,
        sink.strides,
        2,
        3,
        5,
        6,
        1,
        4,
        expression=Expression(operands, steps),
    )
    packed = weights.direct(w, 4, 1)
    gates = weights.channels(gate.reshape(-1), 12)
    _run(kernel, [source.pixels, packed, b, sink.pixels, added.pixels, gates], tmp_path)
    total = reference(x, w, b, Window((1, 1))) + other
    close(sink.get(), gate / (1 + np.exp(-total)))


def _run(kernel: Any, arrays: list[Values], folder: Path) -> None:
    """All parts, in two calls, the later ones first."""
    library = compiled({"kernel": kernel}, folder)
    middle = kernel.parts // 3
    call(library.kernel, arrays, middle, kernel.parts)
    call(library.kernel, arrays, 0, middle)
