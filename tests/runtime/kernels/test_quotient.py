"""Quotients by products are rounded to the integers that divisions give, where a difference could show."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import MACHINES, Values, call, compiled

from graphopt.runtime.codegen import object_file
from graphopt.runtime.emulator import emulate
from graphopt.runtime.kernels.grid import LIMITS, Grid
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Pointwise, Strides
from graphopt.runtime.kernels.quotient import outermost
from graphopt.runtime.machine import llvm_target, machine_of
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cross import need, written

WIDTH = 4096  # pixels of one vector
_RNG = np.random.default_rng(0)
SCALES = [
    float(np.float32(s)) for s in (1 / 255, 1 / 127, 0.5, 3.0, *10 ** _RNG.uniform(-6, 3, 12))
]
GRIDS = [
    Grid(kind, scale, zero, *LIMITS[kind])
    for i, scale in enumerate(SCALES)
    for kind, zero in [(("int8", 0), ("uint8", 0), ("int8", -128), ("uint8", 131))[i % 4]]
]
MAIN = """
#include <stdint.h>
#include <stdio.h>
%s
static float x[%d];
static uint8_t y[%d];
int main(int count, char **path) {
    FILE *in = fopen(path[1], "rb"), *out = fopen(path[2], "wb");
    %s
    return count != 3;
}
"""


def numbers(grid: Grid) -> Values:
    """Those around every half integer, beyond the limits, and any others."""
    halves = np.arange(grid.low - grid.zero - 2, grid.high - grid.zero + 2) + 0.5
    middle = (halves * grid.scale).astype(np.float32).view(np.int32)
    near = (middle[:, None] + np.arange(-14, 15, dtype=np.int32)).view(np.float32).reshape(-1)
    ends = np.array([0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-38, -1e-45], np.float32)
    rng = np.random.default_rng(1)
    others = rng.normal(0, 60 * grid.scale, 4 * WIDTH - len(near) - len(ends))
    return np.concatenate([near, ends, others.astype(np.float32)])


def divided(x: Values, grid: Grid) -> Values:
    """QuantizeLinear, as ONNX says."""
    with np.errstate(over="ignore"):
        steps = np.rint(x / np.float32(grid.scale)) + np.float32(grid.zero)
    return np.clip(steps, grid.low, grid.high).astype(grid.dtype)


def kernel_of(grid: Grid, lanes: int = 4) -> Pointwise:
    machine = replace(MACHINES["neon"], lanes=lanes)
    width = 4 * WIDTH // lanes
    return Pointwise(
        machine, Strides(0, 0, lanes), Strides(0, 0, lanes, grid), 1, 1, width, AS_IT_IS
    )


@pytest.mark.parametrize("lanes", [4, 8])
def test_like_divisions(lanes: int, tmp_path: Path) -> None:
    """Proven before, they equal; proven for nearly all scales; and a product alone does not."""
    grids = [grid.exactly(fused=True) for grid in GRIDS]
    proven = [g.quotient == "fused" for g in grids]
    assert sum(proven) >= len(proven) - 1
    kernels = {f"k{i}": kernel_of(g, lanes) for i, g in enumerate(grids)}
    kernels |= {f"p{i}": kernel_of(g, lanes) for i, g in enumerate(GRIDS)}
    library, wrong = compiled(kernels, tmp_path), 0
    for i, grid in enumerate(grids):
        x = numbers(grid)
        y, product = np.zeros(x.size, grid.dtype), np.zeros(x.size, grid.dtype)
        call(getattr(library, f"k{i}"), [x, y], 0, 1)
        call(getattr(library, f"p{i}"), [x, product], 0, 1)
        np.testing.assert_array_equal(y, divided(x, grid), err_msg=str(grid))
        wrong += int((product != divided(x, grid)).sum())
    assert wrong > 0


@pytest.mark.parametrize("board", ["tx2", "kirin990"])
def test_on_a_board(board: str, tmp_path: Path) -> None:
    need("zig", "qemu")
    grids = [grid.exactly(fused=machine_of(target(board)).fused) for grid in GRIDS]
    functions = {f"k{i}": kernel_of(g).build(f"k{i}") for i, g in enumerate(grids)}
    tools = toolchain_for(target(board), "linux-musl")
    triple = target(board).abi("linux-musl").triple
    object_file(functions, llvm_target(target(board), triple), tmp_path / "k.o")
    declared = "\n".join(f"int {n}(void *, void *, int32_t, int32_t);" for n in functions)
    called = "\n".join(
        f"fread(x, 4, {4 * WIDTH}, in); {n}(x, y, 0, 1); fwrite(y, 1, {4 * WIDTH}, out);"
        for n in functions
    )
    text = MAIN % (declared, 4 * WIDTH, 4 * WIDTH, called)
    main = tools.compile(written(tmp_path, "main.c", text), tmp_path / "main.o")
    tools.executable([main, tmp_path / "k.o"], tmp_path / "main", static=True)
    (tmp_path / "in").write_bytes(b"".join(numbers(g).tobytes() for g in grids))
    emulate(tmp_path / "main", [tmp_path / "in", tmp_path / "out"], target=target(board))
    made = (tmp_path / "out").read_bytes()
    for i, grid in enumerate(grids):
        y = np.frombuffer(made, grid.dtype, 4 * WIDTH, i * 4 * WIDTH)
        np.testing.assert_array_equal(y, divided(numbers(grid), grid), err_msg=str(grid))


def test_what_is_divided_by() -> None:
    """Scales whose inverses leave float32's range, and processors without the instruction."""
    assert GRIDS[0].exactly(fused=False).quotient == "division"
    for scale in (1e-38, 1e-30, 3e38):
        assert Grid("int8", scale, 0, -128, 127).exactly(fused=True).quotient == "division"


def test_outermost_numbers() -> None:
    for scale in SCALES:
        for limit, end, side in zip((-128, 127), outermost(scale, -128, 127), (-1, 1), strict=True):
            beyond = np.nextafter(np.float32(end), np.float32(side * np.inf))
            assert np.rint(np.float32(end) / np.float32(scale)) == limit
            assert np.rint(beyond / np.float32(scale)) == limit + side
