"""The integer reference against ONNX Runtime's integer kernels, and against a network's view and its own sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphopt.errors import RunError, UsageError
from graphopt.passes.quantize.grid import KINDS, Grid
from graphopt.passes.quantize.integer import (
    Integers,
    add,
    average_pool,
    concat,
    conv2d,
    convolved,
    gemm,
    global_average_pool,
    leaky_relu,
    matmul,
    max_pool,
    mul,
    on_grid,
    resize,
    sigmoid,
    table_of,
    zero_point_bias,
)
from graphopt.passes.quantize.requantize import (
    doubling_high_multiply,
    fixed_point,
    fixed_point_of,
    fixed_point_sum,
    multiplied,
    real,
    rounding_shift,
)

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
BYTES = ("int8", "uint8")


def grid(kind: str, scale: Any, zero: Any, axis: int | None = None) -> Grid:
    scale = np.asarray(scale, np.float32)
    return Grid(KINDS[kind], scale, np.broadcast_to(np.asarray(zero, np.int64), scale.shape), axis)


def drawn(rng: np.random.Generator, kind: str, *shape: int) -> Integers:
    """Any integers on a grid with any scale and zero point."""
    low, high = KINDS[kind].low, KINDS[kind].high
    on = grid(kind, rng.uniform(0.01, 0.1), rng.integers(low, high + 1))
    return Integers(rng.integers(low, high + 1, shape).astype(KINDS[kind].dtype), on)


def drawn_weight(rng: np.random.Generator, *shape: int, per_channel: bool = True) -> Integers:
    scale = rng.uniform(0.002, 0.02, shape[0] if per_channel else ())
    on = grid("int8", scale, 0, 0 if per_channel else None)
    return Integers(rng.integers(-127, 128, shape).astype(np.int8), on)


def drawn_grid(rng: np.random.Generator, kind: str, scale: float) -> Grid:
    low, high = KINDS[kind].low, KINDS[kind].high
    return grid(kind, scale * rng.uniform(0.5, 2), rng.integers(low // 2, high // 2 + 1))


def by_onnx_runtime(op: str, *inputs: Any, domain: str = MICROSOFT, **attributes: Any) -> Array:
    """What one kernel makes of arrays, integers (with scale and zero point) and grids."""
    flat: list[Any] = []
    for each in inputs:
        if isinstance(each, Integers):
            flat.append(each.values)
        if isinstance(each, Integers | Grid):
            on = each.grid if isinstance(each, Integers) else each
            flat += [on.scale, on.zero.astype(on.kind.dtype)]
        else:
            flat.append(each)
    names = ["" if v is None else f"in{i}" for i, v in enumerate(flat)]
    held = [
        numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names, flat, strict=True) if n
    ]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    graph = helper.make_graph([node], "one", [], [onnx.ValueInfoProto(name="y")], held)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {})[0]


def off(found: Integers | Array, expected: Array) -> tuple[int, int]:
    """How far apart integers are at most, and how many differ."""
    values = found.values if isinstance(found, Integers) else found
    assert values.dtype == expected.dtype
    assert values.shape == expected.shape
    apart = np.abs(values.astype(np.int64) - expected.astype(np.int64))
    return int(apart.max(initial=0)), int((apart > 0).sum())


def check(drawing: Any, test: Callable[[Any], None], examples: int = 60) -> None:
    settings(max_examples=examples, deadline=None, derandomize=True, database=None)(
        given(drawing)(test)
    )()


SEEDS = st.integers(0, 2**32 - 1)


# --- kernels of ONNX Runtime: the same bits ---------------------------------------------------


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    """Depthwise, grouped and plain, with everything a window may have."""
    group, each = draw(st.sampled_from([(1, 3), (2, 2), (4, 1), (3, 1)]))
    return {
        "seed": draw(SEEDS),
        "kind": draw(st.sampled_from(BYTES)),
        "per_channel": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "size": draw(st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 9))),
        "shape": (
            group * draw(st.integers(1, 3)),
            each,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 3)),
        ),
        "how": {
            "strides": draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
            "pads": draw(st.tuples(*[st.integers(0, 2)] * 4)),
            "dilations": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
            "group": group,
        },
    }


def operands(case: dict[str, Any]) -> tuple[Integers, Integers, Grid, Array | None]:
    rng = np.random.default_rng(case["seed"])
    batch, *image = case["size"]
    group, (rows, each, *_) = case["how"]["group"], case["shape"]
    x = drawn(rng, case["kind"], batch, group * each, *image)
    weight = drawn_weight(rng, *case["shape"], per_channel=case["per_channel"])
    bias = rng.integers(-5000, 5000, rows).astype(np.int32) if case["bias"] else None
    return x, weight, drawn_grid(rng, case["kind"], 0.3), bias


def test_convolutions_are_those_of_onnx_runtime() -> None:
    def test(case: dict[str, Any]) -> None:
        x, weight, y, bias = operands(case)
        how = {k: list(v) if k != "group" else v for k, v in case["how"].items()}
        expected = by_onnx_runtime("QLinearConv", x, weight, y, bias, domain="", **how)
        assert off(conv2d(x, weight, y, bias, **case["how"]), expected) == (0, 0)

    check(convolutions(), test, examples=150)


# In the second, (s_x s_w) / s_y and (s_x / s_y) s_w differ in their last digit.
@pytest.mark.parametrize(
    "scales", [(0.5, 0.25, 0.25), (0.04811854287981987, 0.026569165289402008, 0.22490838170051575)]
)
def test_halves_and_last_digits_are_those_of_onnx_runtime(scales: tuple[float, ...]) -> None:
    s_x, s_w, s_y = (np.float32(s) for s in scales)
    sums = np.arange(-(2**18), 2**18)
    exact = sums * (float(s_x) * float(s_w) / float(s_y))
    sums, exact = sums[np.abs(exact) < 120], exact[np.abs(exact) < 120]
    bias = sums[np.argsort(np.abs(exact % 1 - 0.5), kind="stable")[:500]].astype(np.int32)
    x = Integers(np.full((1, 1, 1, 1), 7, np.int8), grid("int8", s_x, 7))
    weight = Integers(np.ones((len(bias), 1, 1, 1), np.int8), grid("int8", s_w, 0))
    y = grid("int8", s_y, 0)
    expected = by_onnx_runtime("QLinearConv", x, weight, y, bias, domain="")
    assert off(conv2d(x, weight, y, bias), expected) == (0, 0)


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("per_column", [False, True])
def test_matrix_products_are_those_of_onnx_runtime(kind: str, per_column: bool) -> None:
    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = drawn(rng, kind, 5, 40)
        weight = drawn_weight(rng, 7, 40, per_channel=per_column)
        y = drawn_grid(rng, kind, 0.5)
        on = weight.grid
        turned = Integers(
            np.ascontiguousarray(weight.values.T),
            grid("int8", on.scale, on.zero, 1 if per_column else None),
        )
        expected = by_onnx_runtime("QLinearMatMul", x, turned, y, domain="")
        assert off(matmul(x, turned, y), expected) == (0, 0)
        assert off(gemm(x, weight, y), expected) == (0, 0)

    check(SEEDS, test, examples=40)


def test_a_stack_of_matrices() -> None:
    rng = np.random.default_rng(0)
    a, b, y = (
        drawn(rng, "uint8", 2, 3, 4, 6),
        drawn(rng, "int8", 2, 3, 6, 5),
        drawn_grid(rng, "uint8", 2),
    )
    expected = by_onnx_runtime("QLinearMatMul", a, b, y, domain="")
    assert off(matmul(a, b, y), expected) == (0, 0)


@pytest.mark.parametrize("kind", BYTES)
def test_largest_values_are_those_of_onnx_runtime(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = drawn(rng, kind, 2, 3, 9, 8)
    for how in (
        {"strides": [2, 2]},
        {"pads": [1, 0, 1, 1], "strides": [1, 2]},
        {"pads": [1, 1, 1, 1], "dilations": [2, 1]},
    ):
        expected = by_onnx_runtime("MaxPool", x.values, domain="", kernel_shape=[3, 2], **how)
        assert off(max_pool(x, (3, 2), **how), expected) == (0, 0)


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners"])
def test_nearest_values_are_those_of_onnx_runtime(kind: str, coordinates: str) -> None:
    x = drawn(np.random.default_rng(0), kind, 1, 3, 5, 8)
    how = {"nearest_mode": "floor" if coordinates == "asymmetric" else "round_prefer_floor"}
    for size in ((10, 16), (15, 8), (5, 4), (7, 11)):
        expected = by_onnx_runtime(
            *("Resize", x.values, None, None, np.array([1, 3, *size])),
            domain="",
            coordinate_transformation_mode=coordinates,
            **how,
        )
        assert off(resize(x, size, coordinates=coordinates), expected) == (0, 0)


@pytest.mark.parametrize("kind", BYTES)
def test_the_other_kernels_are_those_of_onnx_runtime(kind: str) -> None:
    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = drawn(rng, kind, 2, 8, 7, 5), drawn(rng, kind, 2, 8, 7, 5)
        y = drawn_grid(rng, kind, 0.05)
        assert off(mul(a, b, y), by_onnx_runtime("QLinearMul", a, b, y)) == (0, 0)
        assert off(concat([a, b], y), by_onnx_runtime("QLinearConcat", y, a, b, axis=1)) == (0, 0)
        whole = by_onnx_runtime("QLinearGlobalAveragePool", a, y, channels_last=0)
        assert off(global_average_pool(a, y), whole) == (0, 0)

    check(SEEDS, test)


@pytest.mark.parametrize("kind", BYTES)
def test_functions_by_table_are_those_of_onnx_runtime(kind: str) -> None:
    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, y = drawn(rng, kind, 1000), drawn_grid(rng, kind, 0.05)
        bent = by_onnx_runtime("QLinearLeakyRelu", x, y, alpha=0.1)
        assert off(leaky_relu(x, y, alpha=0.1), bent) == (0, 0)
        unit = grid(kind, 1 / 256, KINDS[kind].low)
        assert off(sigmoid(x, unit), by_onnx_runtime("QLinearSigmoid", x, unit)) == (0, 0)

    check(SEEDS, test, examples=30)


# --- kernels of ONNX Runtime: one step apart where they round in another order ----------------


@pytest.mark.parametrize("kind", BYTES)
def test_sums_of_two_are_those_of_onnx_runtime_but_for_halves(kind: str) -> None:
    """Its kernel adds M_a q_a + M_b q_b to a constant of all zero points, and multiplies and adds in one."""
    counts = []

    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        a, b = drawn(rng, kind, 2, 8, 7, 5), drawn(rng, kind, 2, 8, 7, 5)
        y = drawn_grid(rng, kind, 0.05)
        worst, count = off(add(a, b, y), by_onnx_runtime("QLinearAdd", a, b, y))
        assert worst <= 1
        counts.append(count)

    check(SEEDS, test, examples=100)
    assert sum(counts) <= 10  # of 112,000


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("counted", [0, 1])
def test_means_of_windows_are_those_of_onnx_runtime_but_for_halves(kind: str, counted: int) -> None:
    """Its kernel adds up real numbers: what it dequantized."""
    counts = []

    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, y = drawn(rng, kind, 2, 8, 7, 8), drawn_grid(rng, kind, 0.05)
        how = {"strides": [2, 1], "pads": [1, 0, 1, 1]}
        also = {"kernel_shape": [3, 2], "count_include_pad": counted, **how}
        expected = by_onnx_runtime("QLinearAveragePool", x, y, **also)
        found = average_pool(x, y, (3, 2), count_include_pad=bool(counted), **how)
        worst, count = off(found, expected)
        assert worst <= 1
        counts.append(count)

    check(SEEDS, test, examples=100)
    assert sum(counts) <= 10  # of 51,200


@pytest.mark.parametrize("kind", BYTES)
def test_interpolations_are_those_of_real_numbers_but_for_halves(kind: str) -> None:
    """ONNX Runtime interpolates between real numbers in a QDQ network (and cuts off what stands between
    integers in a Resize of integers, which no one can want)."""
    rng = np.random.default_rng(0)
    x = drawn(rng, kind, 2, 3, 7, 8)
    y = drawn_grid(rng, kind, float(x.grid.scale))
    for coordinates in ("asymmetric", "half_pixel", "align_corners"):
        for size in ((14, 16), (13, 11), (5, 4)):
            expected = by_onnx_runtime(
                *("Resize", x.real(), None, None, np.array([2, 3, *size])),
                domain="",
                mode="linear",
                coordinate_transformation_mode=coordinates,
            )
            found = resize(x, size, y, mode="linear", coordinates=coordinates)
            worst, count = off(found, y.quantize(expected))
            assert worst <= 1
            # Exact for powers of two; otherwise shares of 10 bits move what is close to a half.
            is_exact = size == (14, 16) and coordinates != "align_corners"
            assert count <= (0.005 if is_exact else 0.04) * expected.size


# --- rescaling without real numbers -----------------------------------------------------------


def test_multipliers_in_fixed_point() -> None:
    def test(multiplier: float) -> None:
        m0, shift = fixed_point_of(multiplier)
        assert 1 << 30 <= int(m0) < 1 << 31
        assert abs(int(m0) / 2**31 * 2.0 ** int(shift) - multiplier) <= multiplier * 2**-31

    check(st.floats(1e-12, 1e3), test, examples=300)
    m0, shift = fixed_point_of([0.5, 0.75, 1.0, 1 - 2**-40, 0.0])
    assert m0.tolist() == [1 << 30, 3 << 29, 1 << 30, 1 << 30, 0]
    assert shift.tolist() == [0, 0, 1, 1, 0]


def test_rounding_of_the_two_steps() -> None:
    halves = np.array([-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5])
    away = [-3, -2, -2, -1, -1, 0, 1, 1, 2, 2, 3]
    assert rounding_shift(halves, np.array(1)).tolist() == away
    assert rounding_shift(halves, np.array(0)).tolist() == halves.tolist()
    up = [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3]
    assert doubling_high_multiply(halves, np.array(1 << 30)).tolist() == up


def test_multiplying_in_fixed_point_is_multiplying() -> None:
    def test(drawing: tuple[int, float]) -> None:
        value, multiplier = drawing
        exact = value * float(np.float32(multiplier))
        assume(abs(exact) < 2**30)
        found = int(multiplied(np.array([value]), np.float32(multiplier))[0])
        # Half a step of the second rounding, what the first leaves of its own, and 31 bits of M0.
        _, shift = fixed_point_of(np.float32(multiplier))
        allowed = 0.5 + 2.0 ** -(1 + max(0, -int(shift))) * (int(shift) < 0) + abs(exact) * 2**-31
        assert abs(found - exact) <= allowed

    check(st.tuples(st.integers(-(2**24), 2**24), st.floats(1e-9, 8)), test, examples=500)


@pytest.mark.parametrize("kind", BYTES)
def test_fixed_point_is_at_most_one_step_from_real(kind: str) -> None:
    counts = {"conv": 0, "add": 0, "concat": 0}

    def test(seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, weight, y = (
            drawn(rng, kind, 1, 8, 6, 6),
            drawn_weight(rng, 8, 8, 3, 3),
            drawn_grid(rng, kind, 0.3),
        )
        other, finer = drawn(rng, kind, 1, 8, 6, 6), drawn_grid(rng, kind, 0.05)
        both = {
            "conv": (conv2d(x, weight, y, rescale=fixed_point), conv2d(x, weight, y)),
            "add": (add(x, other, finer, rescaled_sum=fixed_point_sum), add(x, other, finer)),
            "concat": (concat([x, other], finer, rescale=fixed_point), concat([x, other], finer)),
        }
        for name, (found, expected) in both.items():
            worst, count = off(found, expected.values)
            assert worst <= 1
            counts[name] += count

    check(SEEDS, test, examples=50)
    assert counts["conv"] <= 20  # of 6400
    assert counts["add"] <= 3  # of 14400
    # Integers of 8 bits lose more in the first rounding: a step of one half before a shift by one.
    assert counts["concat"] <= 0.06 * 28800


# --- what kernels fold ------------------------------------------------------------------------


def test_a_zero_point_folded_into_the_bias_is_exact_where_padding_is_the_zero_point() -> None:
    def test(case: dict[str, Any]) -> None:
        x, weight, _, bias = operands(case)
        bias = np.zeros(len(weight.values), np.int32) if bias is None else bias
        zero, (top, left, bottom, right) = int(x.grid.zero), case["how"]["pads"]
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        how = [case["how"][k] for k in ("strides", "dilations", "group")]
        padded = np.pad(x.values.astype(np.int64), around, constant_values=zero)
        folded = zero_point_bias(bias, weight.values, zero).reshape(-1, 1, 1)
        subtracted = convolved(padded - zero, weight.values.astype(np.int64), *how)
        as_they_are = convolved(padded, weight.values.astype(np.int64), *how)
        np.testing.assert_array_equal(as_they_are + folded, subtracted + bias.reshape(-1, 1, 1))

    check(convolutions(), test)


def test_a_folded_zero_point_is_wrong_where_padding_is_zero() -> None:
    ones, weight = np.ones((1, 1, 3, 3), np.int64), np.ones((1, 1, 3, 3), np.int64)
    folded = zero_point_bias(np.zeros(1, np.int32), weight, 7).reshape(-1, 1, 1)
    around = ((0, 0), (0, 0), (1, 1), (1, 1))
    how = ((1, 1), (1, 1), 1)
    expected = convolved(np.pad(ones - 7, around), weight, *how)
    with_zero_point = convolved(np.pad(ones, around, constant_values=7), weight, *how) + folded
    with_zero = convolved(np.pad(ones, around), weight, *how) + folded
    np.testing.assert_array_equal(with_zero_point, expected)
    assert (with_zero != expected)[0, 0].tolist() == [[True] * 3, [True, False, True], [True] * 3]


def test_matrix_products_with_a_folded_zero_point() -> None:
    rng = np.random.default_rng(0)
    x, weight, y = (
        drawn(rng, "uint8", 4, 20),
        drawn_weight(rng, 6, 20),
        drawn_grid(rng, "uint8", 0.3),
    )
    bias = rng.integers(-999, 999, 6).astype(np.int32)
    folded = zero_point_bias(bias, weight.values, int(x.grid.zero))
    sums = x.values.astype(np.int64) @ weight.values.T.astype(np.int64) + folded
    expected = gemm(x, weight, y, bias)
    np.testing.assert_array_equal(
        real(sums, x.grid.scale * weight.grid.scale / y.scale, y), expected.values
    )


@pytest.mark.parametrize("wide", ["int16", "uint16"])
def test_16_bits_and_8_bits_mix_as_the_rules_of_our_kernels_have_it(wide: str) -> None:
    """What 16 bits are read by gives a result on 8 bits that is the real one rounded, and the reverse."""
    rng = np.random.default_rng(0)

    def held(kind: str, *shape: int) -> Integers:
        low, high = KINDS[kind].low, KINDS[kind].high
        on = grid(kind, 4 / (high - low), (low + high) // 2)
        return on_grid(rng.uniform(-2, 2, shape).astype(np.float32), on)

    a, b = held(wide, 2, 4, 6, 6), held("int8", 2, 4, 6, 6)
    weight = Integers(
        rng.integers(-127, 128, (3, 4, 1, 1)).astype(np.int8), grid("int8", np.full(3, 0.01), 0, 0)
    )
    product = np.einsum("nchw,oc->nohw", a.real(), weight.real()[:, :, 0, 0])
    pooled = a.real().reshape(2, 4, 3, 2, 3, 2)
    for kind in ("int8", wide):
        low, high = KINDS[kind].low, KINDS[kind].high
        on = grid(kind, 24 / (high - low), (low + high) // 2)
        for found, expected in (
            (conv2d(a, weight, on), product),
            (add(a, b, on), a.real() + b.real()),
            (mul(b, a, on), a.real() * b.real()),
            (concat([a, b], on, axis=1), np.concatenate([a.real(), b.real()], 1)),
            (average_pool(a, on, kernel=(2, 2), strides=(2, 2)), pooled.mean((3, 5))),
            (global_average_pool(a, on), a.real().mean((2, 3), keepdims=True)),
        ):
            assert np.abs(found.real() - expected).max() <= 0.51 * float(on.scale) + 1e-5


# --- refusals ---------------------------------------------------------------------------------


def test_a_sum_that_does_not_fit_is_an_error() -> None:
    wide = Integers(np.full((1, 4), 32767, np.int16), grid("int16", 0.1, 0))
    weight = Integers(np.full((1, 4), 32767, np.int16), grid("int16", 0.1, 0))
    with pytest.raises(RunError, match=r"reaches 4,294,705,156, which 32 bits do not hold"):
        gemm(wide, weight, grid("int8", 1, 0))
    few = Integers(wide.values[:, :2], wide.grid), Integers(weight.values[:, :2], weight.grid)
    assert gemm(*few, grid("int8", 1, 0)).values.tolist() == [[127]]  # 2^31 - 131070 fits
    with pytest.raises(RunError, match="32 bits"):
        gemm(*few, grid("int8", 1, 0), np.array([131072], np.int32))
    with pytest.raises(RunError, match="32 bits"):
        zero_point_bias(np.array([-(2**31)], np.int32), np.ones((1, 4), np.int8), 3)


def test_what_cannot_be_meant_is_an_error() -> None:
    rng = np.random.default_rng(0)
    x, y = drawn(rng, "int16", 8), grid("int8", 0.1, 0)
    with pytest.raises(UsageError, match="65,536 entries"):
        table_of(np.tanh, x.grid, y)
    with pytest.raises(UsageError, match="columns"):
        matmul(drawn(rng, "int8", 2, 3), drawn_weight(rng, 3, 4), y)
    sideways = Integers(np.ones((2, 3, 1, 1), np.int8), grid("int8", np.ones(3), 0, 1))
    with pytest.raises(UsageError, match="output channels"):
        conv2d(drawn(rng, "int8", 1, 3, 4, 4), sideways, y)
    for multiplier in (-1.0, np.inf, np.nan):
        with pytest.raises(RunError, match="no rescaling by"):
            fixed_point_of(multiplier)


def test_integers_of_real_numbers_and_back() -> None:
    values = np.linspace(-3, 3, 50, dtype=np.float32)
    held = on_grid(values, grid("int8", 0.1, 5))
    assert held.values.dtype == np.int8
    assert np.abs(held.real() - values).max() <= 0.05 + 1e-6
