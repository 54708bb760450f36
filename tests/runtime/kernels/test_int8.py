"""Integer convolutions equal numpy's to the last bit, written every way, on this machine and on ARM."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import Values, call, compiled
from numpy.lib.stride_tricks import sliding_window_view

from graphopt.runtime.codegen import object_file
from graphopt.runtime.emulator import emulate
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.kernels.conv_int8 import IntegerConv
from graphopt.runtime.kernels.depthwise_int8 import IntegerDepthwise
from graphopt.runtime.kernels.grid import LIMITS, Grid
from graphopt.runtime.kernels.pointwise import Strides
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower import weights
from graphopt.runtime.machine import llvm_target
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cross import need, written

NEON = Machine(4, 32, True, 2, 2, 4, 1 << 19, 4.0)
HOST = {
    "wide": NEON,
    "wide16": Machine(16, 32, False, 2, 2, 4, 1 << 20, 4.0),
    "vnni16": Machine(16, 32, False, 2, 2, 4, 1 << 20, 4.0, integers="vnni"),
}
SLACK = 512


class Image:
    """A blocked image of bytes (or of float32 in blocks of 4) whose border holds its zero point."""

    def __init__(
        self, channels: int, height: int, width: int, grid: Grid | None, border: int
    ) -> None:
        self.channels, self.height, self.width, self.grid = channels, height, width, grid
        lanes = 16 if grid else 4
        pitch = width + 2 * border
        plane = (height + 2 * border) * pitch
        self.blocks, self.lanes = -(-channels // lanes), lanes
        self.strides = Strides(pitch * lanes, plane * lanes, lanes, grid)
        dtype = grid.dtype if grid else "float32"
        self.memory = np.full(self.blocks * plane * lanes + SLACK, grid.zero if grid else 0, dtype)
        self.first = (border * pitch + border) * lanes

    @property
    def view(self) -> Values:
        """[blocks][H][W][lanes]."""
        shape = (self.blocks, self.height, self.width, self.lanes)
        steps = (self.strides.plane, self.strides.row, self.lanes, 1)
        size = self.memory.itemsize
        start = self.memory[self.first :]
        return np.lib.stride_tricks.as_strided(start, shape, [s * size for s in steps])

    def put(self, values: Values) -> Image:
        """Stores (C, H, W); lanes beyond hold what must not be seen."""
        padded = np.full((self.blocks * self.lanes, *values.shape[1:]), 77, self.memory.dtype)
        padded[: self.channels] = values
        shape = (self.blocks, self.lanes, *values.shape[1:])
        self.view[:] = padded.reshape(shape).transpose(0, 2, 3, 1)
        return self

    def get(self) -> Values:
        """(C, H, W) as it is stored."""
        shape = (self.blocks * self.lanes, self.height, self.width)
        return self.view.transpose(0, 3, 1, 2).reshape(shape)[: self.channels]


def grid(dtype: str, scale: float = 1.0, zero: int = 3) -> Grid:
    return Grid(dtype, scale, zero, *LIMITS[dtype])


def sums(x: Values, w: Values, b: Values, zero: int, window: Window, groups: int = 1) -> Values:
    """Exact sums; x (C, H, W), w (O, C / groups, u, v)."""
    top, left = window.pads
    padded = np.pad(x.astype(np.int64) - zero, ((0, 0), (top, top), (left, left)))
    reach = tuple((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    (down, right), (tall, broad) = window.stride, window.dilation
    seen = sliding_window_view(padded, reach, axis=(1, 2))[:, ::down, ::right, ::tall, ::broad]
    seen = seen.reshape(groups, -1, *seen.shape[1:])
    split = w.astype(np.int64).reshape(groups, -1, *w.shape[1:])
    made = np.einsum("gcyxuv,gocuv->goyx", seen, split)
    return made.reshape(len(w), *made.shape[2:]) + b[:, None, None]


def rounded(values: Values, to: Grid) -> Values:
    steps = np.rint(values.astype(np.float32) / np.float32(to.scale)).astype(np.int64) + to.zero
    return np.clip(steps, to.low, to.high).astype(to.dtype)


CASES = {
    "3x3": (32, 48, 7, 9, Window((3, 3), pads=(1, 1)), "int8"),
    "1x1, rest of 8": (40, 21, 5, 7, Window((1, 1)), "uint8"),
    "strided, rest of 3": (3, 33, 10, 11, Window((3, 3), (2, 2), pads=(1, 1)), "int8"),
    "many channels": (48, 16, 5, 7, Window((3, 3), pads=(1, 1)), "int8"),
    "more taps than are unrolled": (16, 16, 6, 9, Window((5, 5), pads=(2, 2)), "int8"),
    "dilated": (29, 16, 9, 8, Window((3, 3), dilation=(2, 2), pads=(2, 2)), "uint8"),
}


class Case:
    """A convolution of extreme integers, as it is given to a kernel."""

    def __init__(
        self, name: str, machine: Machine, vectors: int, columns: int, floats: bool
    ) -> None:
        channels, out, height, width, window, dtype = CASES[name]
        random = np.random.default_rng(len(name))
        low, high = LIMITS[dtype]
        source = grid(dtype, 0.5, 3)
        x = random.choice([low, high, *range(low, high)], (channels, height, width))
        x[:, 0] = low  # whole rows of extremes: what could overflow does
        w = random.integers(-127, 128, (out, channels, *window.kernel))
        w[0], w[1] = 127, -127
        b = random.integers(-9999, 9999, out)
        scale = (random.random(out) / 300 / np.sqrt(channels)).astype(np.float32)
        exact = sums(x, w, b, source.zero, window)
        value = exact.astype(np.float32) * scale[:, None, None]
        self.sink_grid = None if floats else grid("int8", 1.0, -20)
        self.wanted = value if floats else rounded(value, grid("int8", 1.0, -20))
        self.source = Image(channels, height, width, source, 2).put(x)
        self.sink = Image(out, *exact.shape[1:], self.sink_grid, 1)
        stored = min(self.sink.lanes, vectors * machine.lanes)
        self.kernel = IntegerConv(
            machine,
            window,
            self.source.strides,
            self.sink.strides,
            channels,
            self.sink.blocks * self.sink.lanes // stored,
            *exact.shape[1:],
            vectors,
            columns,
            stored,
        )
        length = self.kernel.tile_count * vectors * machine.lanes
        shift = weights.shift(machine.integers, dtype)
        folded = b - (source.zero - shift) * w.reshape(out, -1).sum(1)
        # Memory, and where in it a kernel's pointer points.
        self.places = [
            (self.source.memory, self.source.first),
            (weights.INTEGERS[machine.integers](w, machine.lanes, vectors), 0),
            (weights.padded(folded.astype(np.int32), 0, length), 0),
            (weights.padded(scale, 0, length), 0),
            (self.sink.memory, self.sink.first),
        ]

    def run(self, folder: Path) -> None:
        """All parts on this machine, in two calls, the later ones first."""
        library = compiled({"kernel": self.kernel}, folder)
        arrays = [memory.reshape(-1)[first:] for memory, first in self.places]
        middle = self.kernel.parts // 3
        call(library.kernel, arrays, middle, self.kernel.parts)
        call(library.kernel, arrays, 0, middle)

    def check(self) -> None:
        """Every result is the one wanted, and nothing else was written."""
        np.testing.assert_array_equal(self.sink.get(), self.wanted)
        self.sink.view[:] = 0
        rest = self.sink.memory
        zero = self.sink_grid.zero if self.sink_grid else 0
        assert set(np.unique(rest)) <= {zero, 0}


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("machine", HOST)
@pytest.mark.parametrize("name", CASES)
def test_convolution(name: str, machine: str, floats: bool, tmp_path: Path) -> None:
    kind = HOST[machine]
    if kind.integers == "vnni" and not target("host").has("avx512vnni"):
        pytest.skip("this processor has no VNNI")
    case = Case(name, kind, 16 // kind.lanes, 3, floats)
    case.run(tmp_path)
    case.check()


class Depthwise(Case):
    """The same for one filter per channel."""

    def __init__(self, name: str, machine: Machine, columns: int, floats: bool) -> None:
        channels, _, height, width, window, dtype = CASES[name]
        random = np.random.default_rng(len(name))
        low, high = LIMITS[dtype]
        source = grid(dtype, 0.5, 3)
        x = random.choice([low, high, *range(low, high)], (channels, height, width))
        x[:, 0] = low
        w = random.integers(-127, 128, (channels, 1, *window.kernel))
        w[0], w[1] = 127, -127
        b = random.integers(-9999, 9999, channels)
        scale = (random.random(channels) / 300).astype(np.float32)
        exact = sums(x, w, b, source.zero, window, channels)
        value = exact.astype(np.float32) * scale[:, None, None]
        self.sink_grid = None if floats else grid("uint8", 1.0, 100)
        self.wanted = value if floats else rounded(value, grid("uint8", 1.0, 100))
        self.source = Image(channels, height, width, source, 2).put(x)
        self.sink = Image(channels, *exact.shape[1:], self.sink_grid, 1)
        self.kernel = IntegerDepthwise(
            machine,
            window,
            self.source.strides,
            self.sink.strides,
            self.sink.blocks,
            *exact.shape[1:],
            columns,
            self.sink.lanes,
            dtype == "int8",
        )
        length = self.source.blocks * 16
        folded = b - source.zero * w.reshape(channels, -1).sum(1)
        self.places = [
            (self.source.memory, self.source.first),
            (weights.depthwise(w, 16).astype(np.int8), 0),
            (weights.padded(folded.astype(np.int32), 0, length), 0),
            (weights.padded(scale, 0, length), 0),
            (self.sink.memory, self.sink.first),
        ]


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_depthwise(name: str, floats: bool, tmp_path: Path) -> None:
    case = Depthwise(name, NEON, 3, floats)
    case.run(tmp_path)
    case.check()


MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
%s
static char *arrays[%d];
int main(int count, char **names) {
    FILE *file = fopen(names[1], "rb");
    int32_t size;
    for (int i = 0; i < %d; i++) {
        if (fread(&size, 4, 1, file) != 1) return 1;
        arrays[i] = aligned_alloc(64, (size + 1023) / 64 * 64);
        if (fread(arrays[i], 1, size, file) != (size_t)size) return 2;
    }
    %s
    file = fopen(names[2], "wb");
    %s
    return fclose(file);
}
"""


@pytest.mark.parametrize(("board", "how"), [("tx2", "smlal"), ("kirin990", "sdot")])
def test_on_a_board(board: str, how: str, tmp_path: Path) -> None:
    """With the instructions of the core alone; the sink comes back and equals numpy's."""
    need("zig", "qemu")
    machine = replace(NEON, integers=how)
    cases: list[Case] = []
    for name in CASES:
        cases += [Case(name, machine, 4, 3, False), Case(name, machine, 2, 4, False)]
        cases += [Case(name, machine, 1, 5, True), Depthwise(name, machine, 4, False)]
    _emulated(board, cases, tmp_path)
    for case in cases:
        case.check()


def _emulated(board: str, cases: list[Case], folder: Path) -> None:
    """Runs all cases in one program."""
    tools = toolchain_for(target(board), "linux-musl")
    names = [f"kernel_{i}" for i in range(len(cases))]
    functions = {n: c.kernel.build(n) for n, c in zip(names, cases, strict=True)}
    triple = target(board).abi("linux-musl").triple
    object_file(functions, llvm_target(target(board), triple), folder / "kernels.o")
    declared, called, wrote, data, at = [], [], [], b"", 0
    for name, case in zip(names, cases, strict=True):
        declared.append(f"int {name}({'void *, ' * len(case.places)}int32_t, int32_t);")
        given = [f"arrays[{at + i}] + {f * m.itemsize}" for i, (m, f) in enumerate(case.places)]
        called.append(f"{name}({', '.join(given)}, 0, {case.kernel.parts});")
        wrote.append(f"fwrite(arrays[{at + 4}], 1, {case.sink.memory.nbytes}, file);")
        data += b"".join(np.int32(m.nbytes).tobytes() + m.tobytes() for m, _ in case.places)
        at += len(case.places)
    text = MAIN % ("\n".join(declared), at, at, "\n    ".join(called), "\n    ".join(wrote))
    (folder / "in").write_bytes(data)
    main = tools.compile(written(folder, "main.c", text), folder / "main.o")
    tools.executable([main, folder / "kernels.o"], folder / "main", static=True)
    emulate(folder / "main", [folder / "in", folder / "out"], target=target(board))
    out = (folder / "out").read_bytes()
    for case in cases:
        case.sink.memory[:] = np.frombuffer(out[: case.sink.memory.nbytes], case.sink.memory.dtype)
        out = out[case.sink.memory.nbytes :]
