"""Quantization in the FX view: the integers of ONNX Runtime, the gradients of LSQ, training and the way back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from conftest import graph_from
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import UnsupportedError
from graphopt.frontends.normal_form import normalize
from graphopt.fx import matching, tap, to_fx, write_back
from graphopt.fx.operators.quantization import (
    dequantize_linear,
    matmul_integer,
    qlinear_matmul,
    quantize_linear,
)
from graphopt.ir.graph import Constant, Graph
from graphopt.ir.proto import to_proto
from graphopt.runtime.run import open_graph

Array = np.ndarray[Any, Any]
KINDS = {k: np.dtype(getattr(ml_dtypes, k, k)) for k in ("int4", "uint4")}
KINDS |= {k: np.dtype(k) for k in ("int8", "uint8", "int16", "uint16")}
# A tensor of the type that nothing in QDQ form reads: what it holds is seen as an output.
VISIBLE = ("int8", "uint8", "int16", "uint16")


def limits(kind: np.dtype) -> tuple[int, int]:
    return int(ml_dtypes.iinfo(kind).min), int(ml_dtypes.iinfo(kind).max)


def run(graph: Graph, x: Array, *, optimized: bool = False) -> dict[str, Array]:
    return open_graph(graph, optimized=optimized, threads=1).run({graph.inputs[0].name: x})


def view_of(graph: Graph, x: Array) -> dict[str, Array]:
    with torch.no_grad():
        found = to_fx(graph)(torch.from_numpy(x))
    found = found if isinstance(found, tuple) else (found,)
    return {t.name: v.numpy() for t, v in zip(graph.outputs, found, strict=True)}


def pair(x: Array, scale: Array, zero: Array, **how: int) -> Graph:
    """x -> QuantizeLinear -> q -> DequantizeLinear -> y; q is an output, too, where numpy knows its type."""
    results = ["q", "y"] if zero.dtype.name in VISIBLE else ["y"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **how),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **how),
    ]
    held = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")]
    fed = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    outputs = [onnx.ValueInfoProto(name=n) for n in results]
    graph = helper.make_graph(nodes, "pair", [fed], outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return normalize(onnx.shape_inference.infer_shapes(model))


def same_bits(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].tobytes() == values.tobytes(), name


# --- the integers of ONNX Runtime -------------------------------------------------------------


@st.composite
def pairs(draw: Any) -> tuple[Array, Array, Array, dict[str, int]]:
    """Values, scales and zero points of any range along any axis."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    how, held = {}, []
    # ONNX Runtime takes one block of a row for a scale of the tensor, and refuses it.
    layout = draw(
        st.sampled_from(["tensor", "axis", "block"] if len(shape) > 1 else ["tensor", "axis"])
    )
    if layout != "tensor":
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        how, held = {"axis": axis}, [shape[axis]]
    if layout == "block":
        how["block_size"] = draw(st.integers(1, shape[axis]))
        held = list(shape)
        held[axis] = -(-shape[axis] // how["block_size"])
    exponent = draw(st.integers(-44, 30))
    scale = np.asarray(10.0**exponent * rng.uniform(0.1, 3, held)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1e-45), scale).astype(np.float32)
    low, high = limits(kind)
    zero = rng.integers(low, high + 1, held).astype(kind)
    with np.errstate(over="ignore"):
        spread = (high - low) * np.asarray(scale).max()
        x = (rng.standard_normal(shape) * spread).astype(np.float32)
        halves = (rng.integers(2 * low, 2 * high, shape) / 2 * np.asarray(scale).flat[0]).astype(
            np.float32
        )
    x = np.where(rng.random(shape) < 0.3, halves, x)
    edges = np.array([np.inf, -np.inf, 0, -0.0, 1e-45, 3e38], np.float32)
    x = np.where(rng.random(shape) < 0.1, rng.choice(edges, shape), x).astype(np.float32)
    if layout == "block" or kind.name.endswith("int4"):
        # ONNX Runtime converts to 32 bits before it saturates here: -inf becomes the highest integer.
        reach = min(2.0**30 * float(np.min(scale)), 3e38)
        x = np.clip(x, -reach, reach).astype(np.float32)
    return x, scale, np.asarray(zero), how


def test_integers_and_values_are_those_of_onnx_runtime() -> None:
    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(pairs())
    def check(drawn: tuple[Array, Array, Array, dict[str, int]]) -> None:
        x, scale, zero, how = drawn
        graph = pair(x, scale, zero, **how)
        same_bits(view_of(graph, x), run(graph, x))

    check()


def test_what_is_no_number_is_the_lowest_integer_and_stays_no_number_for_training() -> None:
    x = np.array([np.nan, 1.0] * 9, np.float32)
    graph = pair(x, np.float32(0.1).reshape(()), np.array(3, np.int8))
    expected, found = run(graph, x), view_of(graph, x)
    np.testing.assert_array_equal(found["q"], expected["q"])  # -128 where x is NaN
    np.testing.assert_array_equal(np.isnan(found["y"]), np.isnan(x))


def test_without_a_zero_point_zeros_have_no_sign() -> None:
    graph = graph_from(
        "(float[4] x) => (float[4] y) <float s = {1}> { q = QuantizeLinear (x, s) y = DequantizeLinear (q, s) }"
    )
    x = np.array([-0.0, -0.3, 0.0, 3], np.float32)
    same_bits(view_of(graph, x), run(graph, x))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_weights_held_as_integers(kind: str) -> None:
    low, high = limits(KINDS[kind])
    rng = np.random.default_rng(0)
    weight = rng.integers(low, high + 1, (4, 3, 3, 3)).astype(KINDS[kind])
    zero = rng.integers(low, high + 1, 4).astype(KINDS[kind])
    held = {"w": weight, "s": rng.uniform(0.01, 0.1, 4).astype(np.float32), "z": zero}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["k"], axis=0),
        helper.make_node("Conv", ["x", "k"], ["y"]),
    ]
    fed = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 6, 6))
    arrays = [numpy_helper.from_array(v, k) for k, v in held.items()]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("y", "k")]
    graph = helper.make_graph(nodes, "weights", [fed], outputs, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    graph = normalize(onnx.shape_inference.infer_shapes(model))
    x = rng.standard_normal((1, 3, 6, 6)).astype(np.float32)
    found, expected = view_of(graph, x), run(graph, x)
    same_bits({"k": found["k"]}, {"k": expected["k"]})
    np.testing.assert_allclose(
        found["y"], expected["y"], rtol=1e-5, atol=1e-5 * np.abs(expected["y"]).max()
    )
    view = to_fx(graph, trainable=["s"])
    view(torch.from_numpy(x))[0].square().sum().backward()
    assert [n for n, p in view.named_parameters() if p.grad is not None] == ["s"]
    assert write_back(view, graph) == []


# --- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tensor", "axis", "block"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_gradients_are_those_of_learned_step_sizes(kind: str, layout: str) -> None:
    low, high = limits(KINDS[kind])
    rng = np.random.default_rng(1)
    shape = {"tensor": (), "axis": (3,), "block": (5, 2)}[layout]
    how = {"tensor": {}, "axis": {"axis": 1}, "block": {"axis": 1, "block_size": 2}}[layout]
    scale = rng.uniform(0.1, 0.3, shape).astype(np.float32)
    zero = rng.integers(low // 2, high // 2, shape).astype(KINDS[kind])
    x = (rng.standard_normal((5, 3)) * 0.2 * (high - low)).astype(np.float32)
    graph = pair(x, np.asarray(scale), np.asarray(zero), **how)
    view = to_fx(graph, trainable=["s"])
    fed = torch.from_numpy(x).requires_grad_()
    weights = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
    result = view(fed)
    (result[-1] if isinstance(result, tuple) else result).mul(weights).sum().backward()

    s, z = (np.asarray(v, np.float32) for v in (scale, zero))
    if layout == "block":
        s, z = s[:, [0, 0, 1]], z[:, [0, 0, 1]]
    steps = np.rint(x / s)
    inside = (steps + z >= low) & (steps + z <= high)
    assert inside.any()
    assert not inside.all()
    np.testing.assert_allclose(fed.grad.numpy(), np.where(inside, weights, 0), rtol=1e-6)
    per_value = (
        np.where(inside, steps - x / s, np.where(steps + z < low, low - z, high - z))
        * weights.numpy()
    )
    total = {"tensor": per_value.sum(), "axis": per_value.sum(0)}.get(layout)
    if total is None:
        total = np.stack([per_value[:, :2].sum(1), per_value[:, 2]], 1)
    np.testing.assert_allclose(view.s.grad.numpy(), total, rtol=2e-4, atol=1e-4 * (high - low))


def test_gradients_of_zero_points_are_those_of_learned_offsets() -> None:
    """The graph's are whole numbers; a trainer that learns them keeps copies of its own."""
    x, s = torch.tensor([-50.0, -0.3, 0.7, 50.0]), torch.tensor(0.1)
    z = torch.tensor([3.0, 3.0, 3.0, 3.0], requires_grad=True)
    q = quantize_linear(x, s.expand(4), z, axis=0, limits=(-128, 127))
    dequantize_linear(q, s.expand(4), z, axis=0, kind=torch.float32).sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([-0.1, 0.0, 0.0, -0.1]))


def test_zero_points_are_no_parameters() -> None:
    graph = pair(np.ones((2, 3), np.float32), np.full(3, 0.1, np.float32), np.zeros(3, np.int8))
    view = to_fx(graph, trainable=["s"])
    assert [n for n, _ in view.named_parameters()] == ["s"]
    assert view.z.dtype == torch.int8
    assert list(view.state_dict()) == ["s"]


# --- between the two --------------------------------------------------------------------------

BETWEEN = {
    "Identity": "m = Identity (q)",
    "Reshape": "m = Reshape (q, shape)",
    "Transpose": "m = Transpose <perm = [0,2,3,1]> (q)",
    "Flatten": "m = Flatten (q)",
    "Concat": "m = Concat <axis = 1> (q, constant, q)",
    "MaxPool": "m = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (q)",
    "MaxPool, wide": "m = MaxPool <kernel_shape = [2,2], pads = [0,0,1,1]> (q)",
    "ReduceMax": "m = ReduceMax (q, one)",
    "Slice": "m = Slice (q, one, four, three)",
    "Pad": "m = Pad (q, pads, z)",
    "Pad, a computed value": "v = QuantizeLinear (s, s, z) m = Pad (q, pads, v)",
    "Resize": 'm = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (q, , scales)',
    "Resize, half pixel": "m = Resize (q, , uneven)",
    "Unsqueeze": "m = Unsqueeze (q, one)",
    "Squeeze": "u = Unsqueeze (q, one) m = Squeeze (u, one)",
    "Split": "a, m, b = Split <axis = 3, num_outputs = 3> (q)",
    "Split, both": "a, b = Split <axis = 1, num_outputs = 2> (q) m = Concat <axis = 1> (b, a)",
    "Gather": "m = Gather <axis = 1> (q, one)",
    "DepthToSpace": "m = DepthToSpace <blocksize = 2> (q)",
    "SpaceToDepth": "m = SpaceToDepth <blocksize = 2> (q)",
    "Expand": "u = Unsqueeze (q, one) m = Expand (u, wider)",
    "Tile": "m = Tile (q, tiles)",
    "Clip": "m = Clip (q, z, top)",
    "Max": "m = Max (q, z)",
    "Where": "c = Greater (x, half) m = Where (c, q, z)",
    "a chain": "a = Transpose <perm = [0,2,3,1]> (q) b = Reshape (a, shape) m = Unsqueeze (b, one)",
}
HELD = """float s = {0.05}, int8 z = {-3}, int8 top = {50}, float half = {0.5}, int64[2] shape = {0, -1},
    int64[1] one = {1}, int64[1] four = {4}, int64[1] three = {3}, int8[1,4,4,6] constant,
    int64[8] pads = {0,0,1,2,0,0,0,1}, float[4] scales = {1,1,2,2}, float[4] uneven = {1,1,1.5,0.7},
    int64[5] wider = {1,2,4,4,6}, int64[4] tiles = {1,2,1,1}"""


def between(text: str, *, back: bool = True) -> Graph:
    """A graph that quantizes, does what the text says, and goes back (or gives the integers away)."""
    result = "(float y)" if back else "(int8 m)"
    end = "y = DequantizeLinear (m, s, z)" if back else ""
    return graph_from(
        f"(float[1,4,4,6] x) => {result} <{HELD}> {{ q = QuantizeLinear (x, s, z) {text} {end} }}"
    )


@pytest.mark.parametrize("name", BETWEEN)
def test_values_and_gradients_pass_through_what_stands_between(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 6)).astype(np.float32)
    graph = unshaped(between(BETWEEN[name]))
    same_bits(view_of(graph, x), run(graph, x))
    view = to_fx(graph, trainable=["s"])
    fed = torch.from_numpy(x).requires_grad_()
    view(fed).square().sum().backward()
    assert fed.grad is not None
    assert fed.grad.abs().sum() > 0
    assert view.s.grad.abs().sum() > 0


@pytest.mark.parametrize("name", BETWEEN)
def test_what_leaves_the_graph_is_integers(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 6)).astype(np.float32)
    graph = unshaped(between(BETWEEN[name], back=False))
    same_bits(view_of(graph, x), run(graph, x))


def unshaped(graph: Graph) -> Graph:
    """Outputs are declared without their rank above."""
    for tensor in graph.outputs:
        tensor.shape = None
    return graph


def test_an_output_under_two_names_is_integers_under_both() -> None:
    text = "q = QuantizeLinear (x, s, z) m = Identity (q)"
    graph = graph_from(f"(float[4] x) => (int8[4] q, int8[4] m) <{HELD}> {{ {text} }}")
    assert [n.op for n in graph.nodes] == ["QuantizeLinear", "Identity"]
    x = np.array([1, -1, 9, 0.3], np.float32)
    same_bits(view_of(graph, x), run(graph, x))


def test_both_a_network_of_integers_and_dequantization_may_read_it() -> None:
    text = "m = MatMulInteger (q, q, z, z) f = Cast <to = 1> (m) d = DequantizeLinear (q, s, z) y = Add (d, f)"
    graph = graph_from(
        f"(float[4,4] x) => (float[4,4] y, int8[4,4] q) <float s = {{0.05}}, int8 z = {{-3}}> {{ q = QuantizeLinear (x, s, z) {text} }}"
    )
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    same_bits(view_of(graph, x), run(graph, x))
    fed = torch.from_numpy(x).requires_grad_()
    to_fx(graph)(fed)[0].sum().backward()
    torch.testing.assert_close(fed.grad, torch.ones(4, 4))  # of what was dequantized, alone


def test_taps_see_whole_numbers_with_gradients() -> None:
    graph = between(BETWEEN["Transpose"])
    view = to_fx(graph)
    assert matching(view, ["q"]) == ["q"]
    fed = torch.randn(1, 4, 4, 6, requires_grad=True)
    _, values = tap(view, ["q"])(fed)
    torch.testing.assert_close(values["q"], values["q"].round())
    values["q"].sum().backward()
    assert fed.grad.abs().sum() > 0


def test_dynamic_quantization_has_gradients() -> None:
    graph = graph_from(
        "(float[3,5] x) => (float[3,5] y) { q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z) }"
    )
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    same_bits(view_of(graph, x), run(graph, x))
    fed = torch.from_numpy(x).requires_grad_()
    to_fx(graph)(fed).sum().backward()
    between_extremes = (x > x.min()) & (x < x.max())
    assert (fed.grad.numpy()[between_extremes] == 1).all()


def test_interpolating_integers_is_refused() -> None:
    graph = between('m = Resize <mode = "linear"> (q, , scales)')
    with pytest.raises(UnsupportedError, match="Resize .* mixes integers"):
        to_fx(graph)


def test_floats_of_8_bits_are_refused() -> None:
    x = np.ones(3, np.float32)
    graph = pair(x, np.float32(1).reshape(()), np.zeros((), ml_dtypes.float8_e4m3fn))
    with pytest.raises(UnsupportedError, match="QuantizeLinear .* reads a constant of a type"):
        to_fx(graph)
    (node, *_) = graph.nodes
    del node.inputs[2]
    node.outputs[0].dtype = np.dtype(ml_dtypes.float8_e4m3fn)
    with pytest.raises(UnsupportedError, match="QuantizeLinear .* makes values of a type"):
        to_fx(graph)


# --- operators of integers --------------------------------------------------------------------


def test_scales_and_zero_points_of_rows() -> None:
    """Allowed by the standard, and by no kernel of ONNX Runtime."""
    rng = np.random.default_rng(0)
    a, b = (
        rng.integers(0, 256, (2, 3)).astype(np.uint8),
        rng.integers(-128, 128, (3, 4)).astype(np.int8),
    )
    zeros, scales = np.array([3, 200], np.uint8), np.array([0.5, 2], np.float32)
    sums = (a.astype(np.int64) - zeros[:, None].astype(np.int64)) @ b.astype(np.int64)
    fed = [torch.from_numpy(v) for v in (a, b, zeros, scales)]
    found = matmul_integer(fed[0], fed[1], fed[2])
    np.testing.assert_array_equal(found.numpy(), sums)
    one, none = torch.tensor(100.0), torch.tensor(0, dtype=torch.int8)
    y = qlinear_matmul(
        *(fed[0], fed[3], fed[2], fed[1], torch.tensor(1.0), none, one, none),
        kind=torch.int8,
        limits=(-128, 127),
    )
    expected = np.clip(np.rint(sums * scales[:, None] / 100), -128, 127)
    np.testing.assert_array_equal(y.numpy(), expected)


# --- a network --------------------------------------------------------------------------------

NETWORK = """(float[N,3,8,8] x) => (float[N,4] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[4,8] w3, float[4] b3,
     float s0 = {0.03}, int8 z0 = {0}, float[8] s1, float[8] s2, int8[8] zw = {0,0,0,0,0,0,0,0},
     float a1 = {0.02}, uint8 za = {0}, float a2 = {0.03}, int8 z2 = {-5}, float s3 = {0.01},
     float a3 = {0.02}>
    { q0 = QuantizeLinear (x, s0, z0)  d0 = DequantizeLinear (q0, s0, z0)
      k1 = QuantizeLinear <axis = 0> (w1, s1, zw)  f1 = DequantizeLinear <axis = 0> (k1, s1, zw)
      c1 = Conv <pads = [1,1,1,1]> (d0, f1, b1)  r1 = Relu (c1)
      q1 = QuantizeLinear (r1, a1, za)  p1 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (q1)
      d1 = DequantizeLinear (p1, a1, za)
      k2 = QuantizeLinear <axis = 0> (w2, s2, zw)  f2 = DequantizeLinear <axis = 0> (k2, s2, zw)
      c2 = Conv <pads = [1,1,1,1]> (d1, f2, b2)
      q2 = QuantizeLinear (c2, a2, z2)  d2 = DequantizeLinear (q2, a2, z2)
      a = Add (d1, d2)
      q3 = QuantizeLinear (a, a2, z2)  d3 = DequantizeLinear (q3, a2, z2)
      g = GlobalAveragePool (d3)  h = Flatten (g)
      k3 = QuantizeLinear (w3, s3, z0)  f3 = DequantizeLinear (k3, s3, z0)
      o = Gemm <transB = 1> (h, f3, b3)
      q4 = QuantizeLinear (o, a3, z0)  y = DequantizeLinear (q4, a3, z0) }"""
SCALES = ["s0", "s1", "s2", "s3", "a1", "a2", "a3"]


def network() -> Graph:
    graph = graph_from(NETWORK)
    for tensor in graph.tensors().values():
        if isinstance(tensor, Constant) and tensor.name in ("s1", "s2"):
            tensor.values = (0.002 + 0.001 * np.abs(tensor.values)).astype(np.float32)
    return graph


def constants(graph: Graph) -> dict[str, Array]:
    return {t.name: t.values for t in graph.tensors().values() if isinstance(t, Constant)}


def trained(graph: Graph) -> tuple[torch.nn.Module, list[float]]:
    """A view after some steps towards random targets, and its losses."""
    torch.manual_seed(0)
    view = to_fx(graph, trainable=SCALES).train()
    x, target = torch.randn(16, 3, 8, 8), torch.randn(16, 4)
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in view.named_parameters():
        groups[name in SCALES].append(parameter)
    optimizer = torch.optim.Adam(
        [{"params": groups[True], "lr": 2e-5}, {"params": groups[False]}], lr=2e-3
    )
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (view(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return view.eval(), losses


def test_weights_behind_quantization_are_parameters_by_themselves() -> None:
    assert sorted(n for n, _ in to_fx(network()).named_parameters()) == [
        "b1",
        "b2",
        "b3",
        "w1",
        "w2",
        "w3",
    ]


def test_a_weight_of_one_number_is_a_parameter_behind_quantization_too() -> None:
    text = "k = QuantizeLinear (w, s, z) f = DequantizeLinear (k, s, z) y = Conv (x, f)"
    graph = graph_from(
        f"(float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1,1,1,1] w, float s = {{0.01}}, int8 z = {{0}}> {{ {text} }}"
    )
    assert [n for n, _ in to_fx(graph).named_parameters()] == ["w"]


def test_a_network_computes_what_onnx_runtime_does() -> None:
    x = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    graph = network()
    off, count = steps_off(view_of(graph, x)["y"], run(graph, x)["y"], 0.02)
    assert off <= 1
    assert count <= 2  # of 256: sums in another order that meet a half


def steps_off(found: Array, expected: Array, step: float) -> tuple[int, int]:
    """The largest distance in steps of the last grid, and how many elements differ."""
    steps = np.rint((found - expected) / step).astype(int)
    np.testing.assert_allclose(found - expected, steps * step, atol=1e-5)
    return int(np.abs(steps).max()), int((steps != 0).sum())


def test_a_network_trains_and_is_written_back() -> None:
    graph = network()
    before = constants(graph)
    view, losses = trained(graph)
    assert losses[-1] < 0.7 * losses[0]
    changed = write_back(view, graph)
    assert set(changed) == {"w1", "b1", "w2", "b2", "w3", "b3", *SCALES}
    after = constants(graph)
    assert all(after[n] is before[n] for n in ("zw", "z0", "za", "z2"))
    assert all((after[n] > 0).all() for n in SCALES)
    x = np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        found = view(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, view_of(graph, x)["y"])
    off, count = steps_off(found, run(graph, x)["y"], float(after["a3"]))
    assert off <= 1
    assert count <= 2


def test_a_written_file_is_read_back_as_the_same_view() -> None:
    graph = network()
    view, _ = trained(graph)
    write_back(view, graph)
    model, _ = to_proto(graph)
    again = normalize(onnx.ModelProto.FromString(model.SerializeToString()))
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    same_bits(view_of(again, x), view_of(graph, x))


def test_other_precisions_and_autocast() -> None:
    graph = network()
    x = torch.randn(2, 3, 8, 8)
    expected = to_fx(graph)(x)
    double = to_fx(graph).double()(x.double())
    assert double.dtype == torch.float64
    assert (double - expected).abs().max() <= 0.02 + 1e-6
    view = to_fx(graph, trainable=SCALES)
    with torch.autocast("cpu", torch.bfloat16):
        y = view(x)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in view.parameters())
