"""Pools and movements of blocked images equal numpy, bit for bit where nothing is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import BIG, MACHINES, Stored, Values, call, compiled

from graphopt.runtime.kernels.blocking import Block, Unblock
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.kernels.grid import Grid
from graphopt.runtime.kernels.movement import (
    ClearBorder,
    CopyChannels,
    Enlarge,
    PadPlain,
)
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.pool import ImagePool, WindowPool

EVERY = pytest.mark.parametrize("machine", MACHINES)


def random(*shape: int) -> Values:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


POOLS = {
    "2x2": (Window((2, 2), (2, 2)), 0),
    "overlapping": (Window((3, 3), (2, 2), pads=(1, 1)), 1),
    "same": (Window((5, 5), pads=(2, 2)), 2),
    "uneven": (Window((1, 3), (1, 2), pads=(0, 1)), None),
}


@EVERY
@pytest.mark.parametrize("case", POOLS)
def test_maximum(case: str, machine: str, tmp_path: Path) -> None:
    """Negative everywhere, so a border of zeros would show."""
    kind, (window, _) = MACHINES[machine], POOLS[case]
    x = -np.abs(random(9, 10, 11)) - 1
    right = torch.nn.functional.max_pool2d(
        torch.tensor(x), window.kernel, window.stride, window.pads
    ).numpy()
    source, sink = (
        Stored(9, 10, 11, kind.lanes, 1, 1, 1).put(x),
        Stored(9, *right.shape[1:], kind.lanes, 1),
    )
    kernel = WindowPool(
        kind,
        "max",
        window,
        source.strides,
        sink.strides,
        sink.blocks,
        (10, 11),
        *right.shape[1:],
        3,
    )
    call(compiled({"k": kernel}, tmp_path).k, [source.pixels, sink.pixels], 0, kernel.parts)
    assert np.array_equal(sink.get(), right)
    assert np.isnan(sink.outside()).all()


@EVERY
def test_mean(machine: str, tmp_path: Path) -> None:
    kind, x = MACHINES[machine], random(9, 8, 12)
    right = x.reshape(9, 4, 2, 4, 3).mean((2, 4))
    source, sink = Stored(9, 8, 12, kind.lanes).put(x), Stored(9, 4, 4, kind.lanes)
    window = Window((2, 3), (2, 3))
    kernel = WindowPool(
        kind, "mean", window, source.strides, sink.strides, sink.blocks, (8, 12), 4, 4, 3
    )
    call(compiled({"k": kernel}, tmp_path).k, [source.pixels, sink.pixels], 0, kernel.parts)
    assert np.allclose(sink.get(), right, atol=1e-6)


@EVERY
@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("size", [(7, 6), (3, 1), (1, 1)])
def test_whole_image(size: tuple[int, int], how: str, machine: str, tmp_path: Path) -> None:
    kind, x = MACHINES[machine], random(9, *size)
    right = x.mean((1, 2)) if how == "mean" else x.max((1, 2))
    source, sink = Stored(9, *size, kind.lanes, 1, 0, 2).put(x), Stored(9, 1, 1, kind.lanes)
    kernel = ImagePool(kind, how, source.strides, sink.strides, sink.blocks, size)  # type: ignore[arg-type]
    call(compiled({"k": kernel}, tmp_path).k, [source.pixels, sink.pixels], 0, kernel.parts)
    assert np.allclose(sink.get()[:, 0, 0], right, atol=1e-6)


@EVERY
@pytest.mark.parametrize("width", [7, 16, 35])
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_there_and_back(channels: int, width: int, machine: str, tmp_path: Path) -> None:
    kind, x = MACHINES[machine], random(channels, 5, width)
    stored = Stored(channels, 5, width, kind.lanes, 1, 2, 1)
    there = Block(kind, channels, 5, width, stored.strides)
    back = Unblock(kind, channels, 5, width, stored.strides)
    library = compiled({"there": there, "back": back}, tmp_path)
    call(library.there, [x, stored.pixels], 0, there.parts)
    assert np.array_equal(stored.get(), x)
    beyond = stored.view.transpose(0, 3, 1, 2).reshape(-1, 5, width)[channels:]
    assert not beyond.any()
    assert np.isnan(stored.outside()).all()
    made = np.full_like(x, np.nan)
    call(library.back, [stored.pixels, made], 0, back.parts)
    assert np.array_equal(made, x)


@EVERY
@pytest.mark.parametrize("exactly", [True, False])
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_a_plain_image_is_rounded(
    channels: int, exactly: bool, machine: str, tmp_path: Path
) -> None:
    """Into blocks of 16, by QuantizeLinear's rule; what is no channel of a vector is zero."""
    kind, x = MACHINES[machine], 40 * random(channels, 3, 19)
    grid = Grid("uint8", float(np.float32(0.37)), 100, 0, 255).exactly(fused=exactly)
    assert grid.quotient == ("fused" if exactly else "division")
    blocks = -(-channels // 16)
    stored = np.full((blocks, 3, 19, 16), 7, np.uint8)
    kernel = Block(kind, channels, 3, 19, Strides(19 * 16, 3 * 19 * 16, 16, grid))
    call(compiled({"k": kernel}, tmp_path).k, [x, stored], 0, kernel.parts)
    wanted = np.clip(np.rint(x / np.float32(grid.scale)) + 100, 0, 255)
    made = stored.transpose(0, 3, 1, 2).reshape(-1, 3, 19)
    np.testing.assert_array_equal(made[:channels], wanted)
    vectors = -(-channels // kind.lanes) * kind.lanes
    assert (made[channels:vectors] == 100).all()
    assert (made[vectors:] == 7).all()


@pytest.mark.parametrize("step", [1, 4])
def test_a_border_is_cleared_and_nothing_else(step: int, tmp_path: Path) -> None:
    stored = Stored(3 * step, 4, 5, step, 2, 3, 1)
    stored.view[:] = 7
    kernel = ClearBorder(3, 4, 5, 2, 3, 1, step, "float32")
    call(compiled({"k": kernel}, tmp_path).k, [stored.memory], 0, kernel.parts)
    assert (stored.view == 7).all()
    assert not stored.outside()[:-BIG].any()
    assert np.isnan(stored.memory[-BIG:]).all()


def test_a_plain_image_gets_a_border(tmp_path: Path) -> None:
    x, stored = random(3, 4, 5), Stored(3, 4, 5, 1, 1, 1, 2)
    kernel = PadPlain(MACHINES["neon"], 3, 4, 5, stored.strides)
    call(compiled({"k": kernel}, tmp_path).k, [x, stored.pixels], 0, kernel.parts)
    assert np.array_equal(stored.get(), x)
    assert np.isnan(stored.outside()).all()


@EVERY
@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (3, 2)])
def test_enlarged(factors: tuple[int, int], machine: str, tmp_path: Path) -> None:
    kind, x = MACHINES[machine], random(9, 4, 5)
    right = x.repeat(factors[0], 1).repeat(factors[1], 2)
    source, sink = (
        Stored(9, 4, 5, kind.lanes, 1, 1, 1).put(x),
        Stored(9, *right.shape[1:], kind.lanes),
    )
    kernel = Enlarge(kind, source.strides, sink.strides, sink.blocks, *right.shape[1:], factors)
    call(compiled({"k": kernel}, tmp_path).k, [source.pixels, sink.pixels], 0, kernel.parts)
    assert np.array_equal(sink.get(), right)


@EVERY
def test_channels_are_copied_to_any_place(machine: str, tmp_path: Path) -> None:
    kind, x = MACHINES[machine], random(11, 3, 4)
    source, sink = Stored(11, 3, 4, kind.lanes).put(x), Stored(30, 3, 4, kind.lanes, 1, 1, 1)
    kernel = CopyChannels(kind, source.strides, sink.strides, 2, 13, 7, 3, 4)
    call(compiled({"k": kernel}, tmp_path).k, [source.pixels, sink.pixels], 0, kernel.parts)
    made = sink.get()
    assert np.array_equal(made[13:20], x[2:9])
    assert np.isnan(np.delete(made, range(13, 20), 0)).all()
