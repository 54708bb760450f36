"""Grids: what integers stand for."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import UsageError
from graphopt.passes.quantize.grid import KINDS, channel_grid, grid_for

UINT8, INT8 = KINDS["uint8"], KINDS["int8"]


def test_the_bounds_of_an_asymmetric_range_are_on_the_grid() -> None:
    grid = grid_for(-1.0, 3.0, UINT8, symmetric=False)
    assert grid.quantize(np.array([-1.0, 0.0, 3.0, -9, 9])).tolist() == [0, 64, 255, 0, 255]
    assert float(grid.rounded(np.zeros(1))[0]) == 0.0


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-2.0, -0.5), (0.0, 0.0), (-1e-30, 1e-30)])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint4"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_is_exact_whatever_the_range(
    low: float, high: float, kind: str, symmetric: bool
) -> None:
    grid = grid_for(low, high, KINDS[kind], symmetric=symmetric)
    assert grid.rounded(np.zeros(3)).tolist() == [0, 0, 0]
    assert np.isfinite(grid.scale)
    assert grid.scale > 0


def test_a_range_beside_zero_is_widened_to_hold_it() -> None:
    for low, high in ((0.5, 2.0), (-2.0, -0.5)):
        grid = grid_for(low, high, UINT8, symmetric=False)
        assert grid.rounded(np.array([low, high])) == pytest.approx([low, high], abs=0.004)


def test_a_range_after_relu_starts_at_the_lowest_integer() -> None:
    # ONNX Runtime takes a Relu into the convolution only then.
    assert grid_for(0.0, 6.0, UINT8, symmetric=False).zero == 0
    assert grid_for(0.0, 6.0, INT8, symmetric=False).zero == -128


def test_narrow_weights_never_use_the_smallest_integer() -> None:
    values = np.linspace(-2, 1, 12, dtype=np.float32).reshape(3, 4)
    grid = channel_grid(values, 0, INT8)
    assert grid.quantize(values).min() == -127
    assert grid.quantize(values - 100).min() == -127
    assert not grid.zero.any()


def test_dead_channels_get_the_scale_of_the_weakest_living_one() -> None:
    values = np.zeros((3, 4), np.float32)
    values[0, 0], values[2, 0] = 127.0, 12.7
    assert channel_grid(values, 0, INT8).scale.tolist() == pytest.approx([1.0, 0.1, 0.1])
    assert channel_grid(np.zeros((2, 4), np.float32), 0, INT8).scale.min() > 0


def test_power_of_two_scales_are_rounded_up() -> None:
    grid = grid_for(-1.0, 1.0, INT8, symmetric=True, power_of_two=True)
    assert grid.scale == 2.0**-6
    assert grid_for(-127.0, 127.0, INT8, symmetric=True, power_of_two=True).scale == 1.0


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (0.0, np.inf), (1.0, -1.0)])
def test_ranges_that_are_none_are_refused(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="range"):
        grid_for(low, high, INT8, symmetric=False)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["int8", "uint8", "int16", "uint16"]),
    st.floats(-50, 0),
    st.floats(0, 50),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_integers_are_those_of_onnx_runtime(
    kind: str, low: float, high: float, symmetric: bool, seed: int
) -> None:
    grid = grid_for(low, high, KINDS[kind], symmetric=symmetric)
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(400) * 30).astype(np.float32)
    # Halves, where rounding to even shows.
    values[:40] = (rng.integers(-9, 9, 40) + np.float32(0.5)) * grid.scale
    assert np.array_equal(grid.quantize(values), _by_onnx_runtime(values, grid))


def _by_onnx_runtime(values: np.ndarray, grid: object) -> np.ndarray:
    zero = np.asarray(grid.zero).astype(grid.kind.dtype)  # type: ignore[attr-defined]
    weights = [
        numpy_helper.from_array(np.asarray(grid.scale), "s"),  # type: ignore[attr-defined]
        numpy_helper.from_array(zero, "z"),
    ]
    given_, made = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]),
        helper.make_tensor_value_info("q", helper.np_dtype_to_tensor_dtype(zero.dtype), [None]),
    )
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    graph = helper.make_graph(nodes, "g", [given_], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": values})[0]
