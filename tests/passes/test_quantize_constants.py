"""quantize-constants: the integers are those of the simulation, and ONNX Runtime computes with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Ran, graph_from, run_pass
from test_insert_fake_quant import NETWORK, images, rounded

from graphopt.ir.graph import Graph, input_of, nodes_of, produced_by
from graphopt.passes.quantize.pairs import pairs, rounded_input
from graphopt.runtime.run import open_graph


def stored(graph: Graph | str = NETWORK, **options: Any) -> tuple[Ran, Ran]:
    simulated = rounded(graph, **options)
    return simulated, run_pass("quantize-constants", simulated.graph)


def test_golden(golden: Any) -> None:
    golden(stored()[1].text)


def test_weights_are_stored_as_the_integers_they_are_rounded_to() -> None:
    simulated, made = stored()
    wanted = [p.grid.quantize(p.source.values) for p in pairs(simulated.graph) if p.is_weight]
    found = [_integers(n, 1) for n in nodes_of(made.graph, "Conv")]
    assert [f.dtype for f in found] == [np.int8] * 3
    assert all(np.array_equal(f, w) for f, w in zip(found, wanted, strict=True))
    assert not any(p.is_weight for p in pairs(made.graph))


def _integers(node: Any, index: int) -> Any:
    return produced_by(input_of(node, index), "DequantizeLinear").inputs[0].values


def test_biases_are_32_bit_integers_on_the_grid_of_the_products() -> None:
    simulated, made = stored()
    before, after = (list(nodes_of(g.graph, "Conv")) for g in (simulated, made))
    for old, new in zip(before, after, strict=True):
        step = rounded_input(old, 0).grid.scale * rounded_input(old, 1).grid.scale  # type: ignore[union-attr]
        found = _integers(new, 2)
        assert found.dtype == np.int32
        assert np.abs(found * step - old.inputs[2].values).max() <= 0.51 * step.max()


def test_outputs_move_by_a_step_at_most() -> None:
    simulated, made = stored()
    step = float(list(pairs(simulated.graph))[-1].grid.scale)
    feeds = {"x": images(3, 8, 8)[0]}
    before, after = (open_graph(g.graph).run(feeds)["y"] for g in (simulated, made))
    assert np.abs(before - after).max() <= 1.01 * step
    assert np.mean(before != after) < 0.02


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_the_integer_kernels_compute_what_is_simulated(target: str) -> None:
    made = stored(target=target)[1].graph
    feeds = {"x": images(3, 8, 8, scale=2.0)[1]}
    simulated, integer = (open_graph(made, optimized=o).run(feeds)["y"] for o in (False, True))
    step = float(list(pairs(made))[-1].grid.scale)
    # Sums are exact in both; their rescaling may round a tie apart.
    assert np.abs(simulated - integer).max() <= 1.01 * step
    assert np.mean(simulated != integer) < 0.01


def test_a_bias_used_in_two_places_has_two_grids() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,1,1] w, float[4] b> { a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, w, b) }"""
    made = stored(text, data=images(4, 8, 8))[1].graph
    one, other = (_integers(n, 2) for n in nodes_of(made, "Conv"))
    assert not np.array_equal(one, other)


def test_the_file_is_a_quarter() -> None:
    text = """(float[N,64,8,8] x) => (float[N,64,8,8] y) <float[64,64,3,3] w, float[64] b>
        { y = Conv <pads = [1,1,1,1]> (x, w, b) }"""
    simulated, made = stored(text, data=images(64, 8, 8))
    ratio = made.result.after.weight_bytes / simulated.result.before.weight_bytes
    assert ratio < 0.26


def test_the_weight_of_a_dense_layer_says_its_zero_points() -> None:
    """As many as it has scales: ONNX Runtime up to 1.23 cannot run it otherwise (on ARM it was seen)."""
    text = """(float[N,32] x) => (float[N,8] y) <float[8,32] w, float[8] b>
        { y = Gemm <transB = 1> (x, w, b) }"""
    made = stored(text, data=[np.ones((4, 32), np.float32)], last=True)[1].graph
    weight = produced_by(next(nodes_of(made, "Gemm")).inputs[1], "DequantizeLinear")
    stored_as, scale, zero = (each.values for each in weight.inputs)
    assert stored_as.dtype == zero.dtype == np.int8
    assert scale.shape == zero.shape == (8,)
    assert not zero.any()


def test_a_float_product_with_a_stored_weight_keeps_its_bias() -> None:
    made = stored(first=False, last=False, compress=True)[1]
    first = next(nodes_of(made.graph, "Conv"))
    assert produced_by(first.inputs[2], "DequantizeLinear") is None
    assert "its input is not rounded, so its bias has no grid" in made.reasons


def test_nothing_to_store_changes_nothing() -> None:
    made = run_pass("quantize-constants", graph_from(NETWORK))
    assert made.result.status == "unchanged"
