"""Whole networks on an OpenCL device, and what every program promises."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from devices import MALI, TX2, assert_close, expected, on_opencl
from generate import models
from hypothesis import HealthCheck, given, settings

import graphopt
from graphopt.errors import UnsupportedError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.runtime.board import Target
from graphopt.runtime.gpu.choose import tile, unit_of
from graphopt.runtime.gpu.compile import GpuCompiled, compile_for_gpu
from graphopt.runtime.gpu.products import Conv
from graphopt.runtime.gpu.simple import Shape
from graphopt.runtime.kernels.conv import Window
from graphopt.runtime.lower.program import Memory, Program
from graphopt.runtime.lower.sizes import fix_sizes

# A long run: GRAPHOPT_EXAMPLES=200 pytest tests/runtime/gpu -k drawn -m slow
EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "0"))
# name -> (network of the zoo, how it is exported, error in float16)
NETWORKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "resnet20": ("resnet20", {"input_size": 32}, 1e-2),
    "mobilenetv3": ("mobilenetv3-large", {"input_size": 64}, 5e-2),
    "yolov3-tiny-decoded": ("yolov3-tiny", {"input_size": 64, "decode": True}, 5e-2),
}


def _network(name: str, how: dict[str, Any]) -> Graph:
    from graphopt.zoo import export

    graph = normalize(export(name, **how))
    return Pipeline(graphopt.default_passes()).run(graph).graph


@pytest.mark.parametrize(
    ("name", "board", "precision"),
    [
        ("resnet20", TX2, "float32"),
        pytest.param("mobilenetv3", MALI, "float32", marks=pytest.mark.slow),
        ("yolov3-tiny-decoded", TX2, "float16"),
        pytest.param("resnet20", MALI, "float16", marks=pytest.mark.slow),
        pytest.param("mobilenetv3", TX2, "float16", marks=pytest.mark.slow),
        pytest.param("yolov3-tiny-decoded", MALI, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_network_computes_what_onnx_runtime_does(
    name: str, board: Target, precision: str, tmp_path: Path
) -> None:
    network, how, worst = NETWORKS[name]
    graph = _network(network, how)
    fix_sizes(graph)
    compiled = compile_for_gpu(graph, board, precision=precision)
    _promised(compiled)
    first, again = on_opencl(compiled, tmp_path)
    assert_close(first, expected(graph, compiled), worst if precision == "float16" else 1e-4)
    assert all(first[k].tobytes() == again[k].tobytes() for k in first)


def _promised(compiled: GpuCompiled) -> None:
    """Memory in use at the same time does not overlap; nothing reaches beyond the arena."""
    program, arena = compiled.program, compiled.arena
    lives = _lives(program)
    for i, (memory, first, last) in enumerate(lives):
        begin, end = arena.offsets[memory], arena.offsets[memory] + memory.size
        assert end <= arena.size
        for other, since, until in lives[i + 1 :]:
            if first <= until and since <= last:
                start = arena.offsets[other]
                assert end <= start or start + other.size <= begin, (memory.name, other.name)


def _lives(program: Program) -> list[tuple[Memory, int, int]]:
    times: dict[Memory, list[int]] = {}
    for port, when in [(p, -1) for p in program.inputs] + [
        (p, len(program.steps)) for p in program.outputs
    ]:
        if isinstance(port.place.of, Memory):
            times.setdefault(port.place.of, []).append(when)
    for index, step in enumerate(program.steps):
        for place in step.places:
            if isinstance(place.of, Memory):
                assert place.offset < place.of.size
                times.setdefault(place.of, []).append(index)
    return [(m, min(t), max(t)) for m, t in times.items()]


@pytest.mark.slow
def test_drawn_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(
        max_examples=EXAMPLES or 8,
        deadline=None,
        database=None,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def check(model: onnx.ModelProto) -> None:
        graph = normalize(model)
        fix_sizes(graph)
        try:
            compiled = compile_for_gpu(graph, TX2, precision="float32")
        except UnsupportedError:
            return
        _promised(compiled)
        wanted = expected(graph, compiled)
        if not all(np.isfinite(v).all() for v in wanted.values()):
            return
        first, _ = on_opencl(compiled, tmp_path_factory.mktemp("drawn"))
        assert_close(first, wanted, 1e-3)

    check()


# --- tiles ---------------------------------------------------------------------------------------

LAYERS = [
    (Window((1, 1)), Shape(512, 13, 13), Shape(255, 13, 13), 1),
    (Window((3, 3), pads=(1, 1)), Shape(3, 416, 416), Shape(16, 416, 416), 1),
    (Window((3, 3), pads=(1, 1)), Shape(64, 52, 52), Shape(128, 52, 52), 1),
    (Window((3, 3), pads=(1, 1)), Shape(256, 13, 13), Shape(512, 13, 13), 8),
    (Window((1, 1)), Shape(4, 1, 1), Shape(4, 1, 1), 1),
]


@pytest.mark.parametrize("board", [TX2, MALI], ids=lambda b: b.name)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_tile_suits_the_gpu(board: Target, layer: Any, precision: str) -> None:
    assert board.gpu is not None
    unit = unit_of(board.gpu, precision)
    window, image, made, groups = layer
    found = tile(unit, window, image, made, groups)
    assert found.across * found.down <= 256
    assert found.blocks <= max(1, made.blocks // groups)
    if found.depth:
        assert unit.shares  # a Mali's local memory is no faster than what lies behind it
        assert (found.across * found.down) % (found.across * found.pixels) == 0


def test_large_layers_use_local_memory_of_a_cuda_gpu_and_none_of_a_mali() -> None:
    window, image, made, groups = LAYERS[2]
    assert TX2.gpu is not None
    assert MALI.gpu is not None
    shared = tile(unit_of(TX2.gpu, "float16"), window, image, made, groups)
    alone = tile(unit_of(MALI.gpu, "float16"), window, image, made, groups)
    assert shared.depth > 0
    assert alone.depth == 0
    assert shared.pixels * shared.blocks >= 8
    assert alone.pixels * alone.blocks >= 4


def test_equal_layers_share_a_kernel() -> None:
    from conftest import graph_from

    graph = graph_from(
        """(float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,3,3] w0, float[8,8,3,3] w1, float[8,8,3,3] w2>
        { a = Conv <pads = [1,1,1,1]> (x, w0)  b = Conv <pads = [1,1,1,1]> (a, w1)
          y = Conv <pads = [1,1,1,1]> (b, w2) }"""
    )
    compiled = compile_for_gpu(graph, TX2)
    assert sum(isinstance(k, Conv) for k in compiled.symbols) == 1
