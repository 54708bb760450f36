"""equalize: channels get equal ranges, nothing else changes, and what cannot be scaled says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from, run_pass
from generate import Builder, conv_transpose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt.errors import UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph, nodes_of
from graphopt.oracle import Oracle
from graphopt.passes.quantize.balance import Sides, balance
from graphopt.passes.quantize.equalize import Equalize
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import default_passes

X = "float[1,3,8,8] x"
TWO = "float[8,3,3,3] w, float[8] b, float[4,8,3,3] v, float[4] c"

# One graph per thing a scale has to get through, in front of `graph (..)`.
SCALED = {
    "relu": f"""({X}) => (float[1,4,4,4] y) <{TWO}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c) }}""",
    "padded": f"""({X}) => (float[1,4,8,8] y) <{TWO}>
        {{ a = Conv <pads = [1,1,1,1]> (x, w, b)  r = LeakyRelu (a)
           y = Conv <pads = [1,1,1,1]> (r, v, c) }}""",
    "nothing_between": f"""({X}) => (float[1,4,4,4] y) <{TWO}>
        {{ a = Conv (x, w, b)  y = Conv (a, v) }}""",
    "prelu_and_pools": f"""({X}) => (float[1,4,1,1] y) <{TWO}, float[8,1,1] s>
        {{ a = Conv <pads = [1,1,1,1]> (x, w, b)  r = PRelu (a, s)
           p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
           q = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (p)
           y = Conv <strides = [2,2]> (q, v, c) }}""",
    "depthwise": f"""({X}) => (float[1,4,4,4] y) <{TWO}, float[8,1,3,3] d, float[8] e>
        {{ a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
           f = Conv <group = 8> (r, d, e)  s = Relu (f)  y = Conv (s, v, c) }}""",
    "grouped": f"""({X}) => (float[1,4,6,6] y) <{TWO}, float[4,4,1,1] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv <group = 2> (r, u) }}""",
    "transposed": f"""({X}) => (float[1,4,8,8] y) <{TWO}, float[8,3,3,3] t, float[6,4,1,1] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  g = ConvTranspose <group = 2> (r, t)  s = Relu (g)
           y = ConvTranspose (s, u) }}""",
    "flattened": f"""({X}) => (float[1,5] y) <{TWO}, float[5,288] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  f = Flatten (r)  y = Gemm <transB = 1> (f, u) }}""",
    "gemm": """(float[N,5] x) => (float[N,3] y)
        <float[5,6] w, float[1,6] b, float[6,7] v, float[1] c, float[7,3] u>
        { a = Gemm <beta = 0.5> (x, w, b)  r = Relu (a)  g = Gemm <alpha = 2.0> (r, v, c)
          s = Relu (g)  y = MatMul (s, u) }""",
    "tokens": """(float[N,7,5] x) => (float[N,7,3] y) <float[5,6] w, float[6] b, float[6,3] u>
        { a = MatMul (x, w)  s = Add (a, b)  r = Relu (s)  y = MatMul (r, u) }""",
    "residual": f"""({X}) => (float[1,4,8,8] y) <{TWO}, float[8,8,3,3] u, float[8] e>
        {{ a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
           f = Conv <pads = [1,1,1,1]> (r, u, e)  s = Add (r, f)  t = Relu (s)
           y = Conv <pads = [1,1,1,1]> (t, v, c) }}""",
    "concat_and_split": f"""({X}) => (float[1,4,6,6] y, float[1,2,6,6] z)
        <{TWO}, float[4,3,3,3] w2, float[4,5,1,1] u, float[2,7,1,1] t, int64[2] sizes = {{5, 7}}>
        {{ a = Conv (x, w, b)  d = Conv (x, w2)  j = Concat <axis = 1> (a, d)  r = Relu (j)
           k, l = Split <axis = 1> (r, sizes)  y = Conv (k, u)  z = Conv (l, t) }}""",
    "shuffled": f"""({X}) => (float[1,4,4,4] y)
        <{TWO}, int64[5] s = {{1,2,4,6,6}}, int64[4] t = {{1,8,6,6}}>
        {{ a = Conv (x, w, b)  r = Relu (a)  f = Reshape (r, s)
           g = Transpose <perm = [0,2,1,3,4]> (f)  h = Reshape (g, t)  y = Conv (h, v, c) }}""",
    "zero_channels_added": f"""({X}) => (float[1,4,6,6] y)
        <{TWO}, float[4,3,3,3] w2, int64[8] p = {{0,2,0,0,0,2,0,0}}, float[4,8,1,1] u>
        {{ a = Conv (x, w, b)  d = Conv (x, w2)  e = Pad (d, p)  s = Add (a, e)  r = Relu (s)
           y = Conv (r, u) }}""",
    "resized_and_gated": f"""({X}) => (float[1,4,12,12] y)
        <{TWO}, float[4] k = {{1,1,2,2}}, float[8,8,1,1] m, float[4,8,1,1] u>
        {{ a = Conv (x, w, b)  r = Relu (a)  p = GlobalAveragePool (r)  q = Conv (p, m)
           g = Sigmoid (q)  s = Mul (r, g)  t = Resize <mode = "nearest"> (s, , k)  y = Conv (t, u) }}""",
    "shared_weight": f"""({X}, float[1,3,6,6] z) => (float[1,4,4,4] y, float[1,4,2,2] q) <{TWO}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c)
           d = Conv (z, w, b)  s = Relu (d)  q = Conv (s, v, c) }}""",
    "shared_by_makers": f"""({X}, float[1,3,6,6] z) => (float[1,4,4,4] y, float[1,2,2,2] q)
        <{TWO}, float[2,8,3,3] v2>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c)
           d = Conv (z, w, b)  s = Relu (d)  q = Conv (s, v2) }}""",
    "shared_by_readers": f"""({X}, float[1,3,6,6] z) => (float[1,4,4,4] y, float[1,4,2,2] q)
        <{TWO}, float[8,3,3,3] w2>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v, c)
           d = Conv (z, w2)  s = Relu (d)  q = Conv (s, v, c) }}""",
    "constant_minimum": f"""({X}) => (float[1,4,4,4] y) <{TWO}, float six = {{6.0}}>
        {{ a = Conv (x, w, b)  r = Relu (a)  m = Min (r, six)  y = Conv (m, v, c) }}""",
}

REFUSALS = {
    "sigmoid": (
        f"({X}) => (float[1,4,4,4] y) <{TWO}> {{ a = Conv (x, w, b)  r = Sigmoid (a)  y = Conv (r, v) }}",
        "Sigmoid is not positively homogeneous",
    ),
    "silu": (
        f"""({X}) => (float[1,4,4,4] y) <{TWO}>
        {{ a = Conv (x, w, b)  s = Sigmoid (a)  r = Mul (a, s)  y = Conv (r, v) }}""",
        "Sigmoid is not positively homogeneous",
    ),
    "relu6": (
        f"""({X}) => (float[1,4,4,4] y) <{TWO}, float zero = {{0}}, float six = {{6}}>
        {{ a = Conv (x, w, b)  r = Clip (a, zero, six)  y = Conv (r, v) }}""",
        "Clip to [0, 6] is not positively homogeneous (see loosen-clips",
    ),
    "batch_norm": (
        f"""({X}) => (float[1,4,4,4] y) <{TWO}, float[8] g, float[8] h, float[8] m, float[8] var>
        {{ a = Conv (x, w, b)  n = BatchNormalization (a, g, h, m, var)  y = Conv (n, v) }}""",
        "fold it with fuse-conv-bn first",
    ),
    "output_in_between": (
        f"""({X}) => (float[1,4,4,4] y, float[1,8,6,6] r) <{TWO}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }}""",
        "'r' is an output of the model",
    ),
    "added_to_the_input": (
        """(float[1,3,8,8] x) => (float[1,4,8,8] y) <float[3,3,1,1] w, float[4,3,1,1] v>
        { a = Conv (x, w)  s = Add (a, x)  y = Conv (s, v) }""",
        "has no scale of its own",
    ),
    "computed_weight": (
        f"""({X}, float[4,8,3,3] q) => (float[1,4,4,4] y) <{TWO}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, q) }}""",
        "computed at run time",
    ),
    "weight_read_otherwise": (
        f"""({X}) => (float[1,4,4,4] y, float[4,8,3,3] z) <{TWO}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v)  z = Neg (v) }}""",
        "is read by Neg",
    ),
    "one_weight_in_two_layouts": (
        """(float[N,6] x) => (float[N,6] y) <float[6,6] w>
        { a = Gemm <transB = 1> (x, w)  r = Relu (a)  y = Gemm (r, w) }""",
        "laid out in two ways",
    ),
    "two_scaled_factors": (
        f"""({X}) => (float[1,4,4,4] y) <{TWO}, float[8,3,3,3] w2>
        {{ a = Conv (x, w, b)  d = Conv (x, w2)  m = Mul (a, d)  y = Conv (m, v) }}""",
        "multiplies two scaled tensors",
    ),
    "channels_mixed": (
        """(float[1,3,8,8] x) => (float[1,4,8,8] y)
        <float[8,3,1,1] w, float[4,1,1,1] v, int64[1] axis = {1}>
        { a = Conv (x, w)  r = Relu (a)  m = ReduceMean (r, axis)  y = Conv (m, v) }""",
        "ReduceMean mixes channels",
    ),
    "padded_with_a_number": (
        f"""({X}) => (float[1,4,6,6] y) <{TWO}, int64[8] p = {{0,0,1,1,0,0,1,1}}, float one = {{1}}>
        {{ a = Conv (x, w, b)  r = Relu (a)  q = Pad (r, p, one)  y = Conv (q, v) }}""",
        "fills in a value",
    ),
    "read_in_a_subgraph": (
        """(float[1,3,8,8] x, bool k) => (float[1,8,8,8] y, float[1,4,8,8] z)
        <float[8,3,1,1] w, float[4,8,1,1] v>
        { a = Conv (x, w)  r = Relu (a)  z = Conv (r, v)
          y = If (k) <then_branch = t () => (float[1,8,8,8] p) { p = Neg (r) },
                      else_branch = e () => (float[1,8,8,8] q) { q = Abs (r) }> }""",
        "read in a subgraph",
    ),
    "unknown_operator": (
        f"""({X}) => (float[1,4,4,4] y) <{TWO}>
        {{ a = Conv (x, w, b)  r = CumSum (a, k)  y = Conv (r, v) }}""".replace(
            "<float[8,3,3,3]", "<int64 k = {2}, float[8,3,3,3]"
        ),
        "CumSum is not known to be positively homogeneous",
    ),
}


def uneven(graph: Graph) -> Graph:
    """Output channels that differ by up to a million, in one way for layers of as many channels.

    Layers whose result nothing can scale (an output, a gate) keep theirs.
    """
    done: set[str] = set()
    for node in nodes_of(graph, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        weight, result = node.inputs[1], node.outputs[0]
        fixed = result in graph.outputs or any(r.op == "Sigmoid" for r in result.outputs)
        if not hasattr(weight, "values") or weight.name in done or fixed:
            continue
        axis = 0 if node.op == "Conv" or node.attrs.get("transB") else 1
        count = weight.values.shape[axis]
        factors = 10 ** np.random.default_rng(count).uniform(-3, 3, count)
        shape = [-1 if a == axis else 1 for a in range(weight.values.ndim)]
        weight.values = (weight.values * factors.reshape(shape)).astype(np.float32)
        done.add(weight.name)
    return graph


def worst(outcome: Outcome, when: str) -> float:
    """The farthest that ranges of channels differ on either side of a layer."""
    rows = outcome.results[0].facts["equalized"]["layers"].values()
    return max(max(r[f"out_{when}"], r[f"in_{when}"]) for r in rows)


def equalized(graph: Graph, **options: object) -> Outcome:
    return Pipeline([Equalize(**options)]).run(graph, oracle=Oracle(graph), strict=True)


@pytest.mark.parametrize("case", SCALED)
def test_scales(case: str, golden) -> None:
    graph = uneven(graph_from(SCALED[case]))
    outcome = equalized(graph)
    assert outcome.results[0].status == "verified"
    # Where two layers that differ are added up, no scales suit both.
    gain = 1 if case == "zero_channels_added" else 5
    assert worst(outcome, "after") * gain < worst(outcome, "before")
    assert [n.op for n in outcome.graph.nodes] == [n.op for n in graph.nodes]
    assert equalized(outcome.graph).results[0].status == "unchanged"
    text = "\n".join(f"{n.where}: {n.what}" for n in outcome.results[0].rewrites)
    golden(text + "\n")


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("equalize", uneven(graph_from(text)))
    assert any(reason in r for r in ran.reasons), ran.reasons
    assert ran.result.status == "unchanged", ran.result.rewrites


def test_a_pair_gets_the_ranges_of_the_paper() -> None:
    graph = uneven(graph_from(SCALED["relu"]))
    w, v = (n.inputs[1].values for n in nodes_of(graph, "Conv"))
    r1, r2 = np.abs(w).max((1, 2, 3)), np.abs(v).max((0, 2, 3))
    scaled = equalized(graph).graph
    w, v = (n.inputs[1].values for n in nodes_of(scaled, "Conv"))
    np.testing.assert_allclose(np.abs(w).max((1, 2, 3)), np.sqrt(r1 * r2), rtol=1e-5)
    np.testing.assert_allclose(np.abs(v).max((0, 2, 3)), np.sqrt(r1 * r2), rtol=1e-5)


def test_a_depthwise_convolution_gets_those_of_its_neighbours() -> None:
    """s1 = r1 / cbrt(r1 r2 r3), s2 = cbrt(r1 r2 r3) / r3: pairs settle on the formula for three."""
    graph = uneven(graph_from(SCALED["depthwise"]))
    parts = [n.inputs[1].values for n in nodes_of(graph, "Conv")]
    axes = [(1, 2, 3), (1, 2, 3), (0, 2, 3)]
    ranges = [np.abs(p).max(a) for p, a in zip(parts, axes, strict=True)]
    outcome = equalized(graph)
    parts = [n.inputs[1].values for n in nodes_of(outcome.graph, "Conv")]
    for part, axis in zip(parts, axes, strict=True):
        np.testing.assert_allclose(np.abs(part).max(axis), np.cbrt(np.prod(ranges, 0)), rtol=1e-3)
    assert outcome.results[0].facts["equalized"]["settled"]


def test_relu6_becomes_a_minimum_per_channel_when_asked() -> None:
    graph = uneven(graph_from(REFUSALS["relu6"][0]))
    outcome = equalized(graph, relu6="min")
    assert [n.op for n in outcome.graph.nodes] == ["Conv", "Relu", "Min", "Conv"]
    assert outcome.graph.nodes[2].inputs[1].shape == (1, 8, 1, 1)
    assert equalized(outcome.graph, relu6="min").results[0].status == "unchanged"


def test_relu6_that_nothing_scales_stays() -> None:
    text = (
        REFUSALS["relu6"][0]
        .replace("r = Clip", "s = Sigmoid (a)  r = Clip")
        .replace("(a, z", "(s, z")
    )
    ran = run_pass("equalize", uneven(graph_from(text)), relu6="min")
    assert ran.result.status == "unchanged"


def test_a_dead_channel_is_left_alone() -> None:
    graph = uneven(graph_from(SCALED["relu"]))
    first, second = nodes_of(graph, "Conv")
    w, v = first.inputs[1].values.copy(), second.inputs[1].values.copy()
    w[2], v[:, 5] = 0, 0
    w[6] *= 1e-20  # as good as dead: it would want a scale of 1e-10
    first.inputs[1].values, second.inputs[1].values = w, v
    outcome = equalized(graph)
    new = next(nodes_of(outcome.graph, "Conv")).inputs[1].values
    for channel in (2, 6):
        np.testing.assert_array_equal(new[channel], w[channel])
    assert np.isfinite(new).all()
    assert not np.array_equal(new[0], w[0])


def test_weights_that_are_no_numbers_are_left_alone() -> None:
    graph = uneven(graph_from(SCALED["relu"]))
    values = graph.nodes[0].inputs[1].values.copy()
    values[1, 0, 0, 0] = np.nan
    graph.nodes[0].inputs[1].values = values
    result = Pipeline([Equalize()]).run(graph).results[0]
    assert result.status == "unchanged"


def test_even_channels_are_left_alone() -> None:
    graph = graph_from(SCALED["relu"])
    for node in nodes_of(graph, "Conv"):
        node.inputs[1].values = np.sign(node.inputs[1].values)
    result = equalized(graph).results[0]
    assert result.status == "unchanged"
    assert not result.refusals


def test_a_single_layer_is_no_candidate() -> None:
    ran = run_pass(
        "equalize", f"({X}) => (float[1,8,6,6] y) <{TWO}> {{ a = Conv (x, w)  y = Relu (a) }}"
    )
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_a_shared_bias_stays_shared() -> None:
    outcome = equalized(uneven(graph_from(SCALED["shared_weight"])))
    first, second = (n for n in nodes_of(outcome.graph, "Conv") if n.inputs[2].shape == (8,))
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[2] is second.inputs[2]


def test_arrays_of_the_graph_before_are_not_written_to() -> None:
    graph = uneven(graph_from(SCALED["residual"]))
    before = {t.name: t.values.copy() for t in graph.tensors().values() if hasattr(t, "values")}
    equalized(graph)
    for tensor in graph.tensors().values():
        if tensor.name in before:
            np.testing.assert_array_equal(tensor.values, before[tensor.name])


@pytest.mark.parametrize(
    ("options", "message"), [({"relu6": "max"}, "keep, min"), ({"cap": 0.5}, "more than 1")]
)
def test_options_that_cannot_be_meant(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline([Equalize(**options)]).run(graph_from(SCALED["relu"]))


def test_a_weight_between_channels_of_one_set_comes_to_rest() -> None:
    """x + w2 relu(w1 x): w1 reads the stream that w2 adds to, and both move at once."""
    rng = np.random.default_rng(0)
    peaks = [10 ** rng.uniform(-3, 3, (1, 6, 6)) for _ in range(3)]
    stream, inner, held = np.arange(1, 7)[None], np.arange(7, 13)[None], np.zeros((1, 6), int)
    sides = [
        Sides(peaks[0], stream, held),
        Sides(peaks[1], stream, stream[:, ::-1]),
        Sides(peaks[2], inner, stream),
        Sides(peaks[2], held, inner),
    ]
    found = balance(sides, 12, 1e6)
    assert found.settled
    made = np.maximum(*(s.scaled(found.scales).max(2)[0] for s in sides[:2]))
    read = np.maximum(
        sides[1].scaled(found.scales).max(1)[0, ::-1], sides[2].scaled(found.scales).max(1)[0]
    )
    np.testing.assert_allclose(made, read, rtol=1e-2)


def test_two_channels_that_make_each_other_do_not_swing() -> None:
    """x + w x where each of two channels is made of the other: moving both at once would overshoot."""
    both, held = np.array([[1, 2]]), np.array([[0]])
    sides = [
        Sides(np.array([[[1e-6], [1e-6]]]), both, held),
        Sides(np.array([[[0.0, 1000.0], [0.001, 0.0]]]), both, both),
        Sides(np.array([[[1e-6, 1e-6]]]), held, both),
    ]
    found = balance(sides, 2, 1e6)
    assert found.settled
    np.testing.assert_allclose(sides[1].scaled(found.scales).max(2), [[1, 1]], rtol=1e-3)


# --- generated ------------------------------------------------------------------------------------


def _layer(b: Builder, x: str) -> str:
    """A convolution of any kind with uneven channels."""
    _, c, h, w = b.shapes[x]
    if b.pick([False, False, True]) and h * w < 150:
        return conv_transpose(b, x) or x
    k = b.pick([1, 3])
    group = b.pick([g for g in (1, 1, 2, c) if c % g == 0])
    out = group * b.pick([1, 2, 4])
    weight = b.rng.standard_normal((out, c // group, k, k)) * (k * k * c / group) ** -0.5
    weight *= 10 ** b.rng.uniform(-2, 2, (out, 1, 1, 1))
    if b.pick([False, False, False, True]):
        weight[b.rng.integers(out)] = 0
    inputs = [x, b.weight(weight.astype(np.float32))]
    if b.pick([True, False]):
        inputs.append(b.floats(out))
    attrs = {"kernel_shape": [k, k], "pads": [k // 2] * 4, "group": group}
    return b.node("Conv", inputs, (1, out, h, w), **attrs)


def _between(b: Builder, x: str) -> str:
    shape = b.shapes[x]
    _, c, h, w = shape
    op = b.pick(
        ["Relu", "Relu", "LeakyRelu", "PRelu", "pool", "Sigmoid", "Clip", "bias", "join", "cut"]
    )
    others = [n for n, s in b.shapes.items() if s == shape and n != "x"]
    if op == "PRelu":
        return b.node("PRelu", [x, b.floats(c, 1, 1)], shape)
    if op == "Clip":
        return b.node("Clip", [x, b.weight(np.float32(0)), b.weight(np.float32(2))], shape)
    if op == "pool":
        kind = b.pick(["MaxPool", "AveragePool"])
        return b.node(kind, [x], shape, kernel_shape=[3, 3], pads=[1] * 4)
    if op == "bias":
        return b.node(b.pick(["Add", "Sub", "Max"]), [x, b.floats(c, 1, 1)], shape)
    if op == "join" and others:
        kind = b.pick(["Add", "Max", "Concat"])
        if kind == "Concat":
            return b.node(kind, [x, b.pick(others)], (1, 2 * c, h, w), axis=1)
        return b.node(kind, [x, b.pick(others)], shape)
    if op == "cut" and c > 1:
        bounds = [b.weight(np.array([v], np.int64)) for v in (0, c - 1, 1)]
        return b.node("Slice", [x, *bounds], (1, c - 1, h, w))
    return b.node(op if op in ("Sigmoid", "LeakyRelu") else "Relu", [x], shape)


@st.composite
def networks(draw) -> onnx.ModelProto:
    b = Builder(draw, np.random.default_rng(draw(st.integers(0, 2**16))))
    b.shapes["x"] = (1, 4, 5, 6)
    x = "x"
    for _ in range(draw(st.integers(2, 6))):
        x = _layer(b, x)
        for _ in range(draw(st.integers(0, 2))):
            x = _between(b, x)
        if draw(st.booleans()):
            x = b.pick([n for n in list(b.shapes)[-4:] if b.shapes[n][1] < 64])
    read = {i for n in b.nodes for i in n.input}
    ends = [o for n in b.nodes for o in n.output if o not in read]
    outs = [helper.make_tensor_value_info(e, TensorProto.FLOAT, None) for e in ends]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 6])]
    graph = helper.make_graph(b.nodes, "g", inputs, outs, b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@given(model=networks(), relu6=st.sampled_from(["keep", "min"]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_networks_compute_the_same_and_settle(model: onnx.ModelProto, relu6: str) -> None:
    graph = normalize(model)
    once = equalized(graph, relu6=relu6)
    facts = once.results[0].facts.get("equalized", {"settled": True})
    again = equalized(once.graph, relu6=relu6)
    assert again.results[0].status == "unchanged" or not facts["settled"], again.results[0].rewrites


# --- real models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gain"),
    [("cifar10_resnet20_bn", 2), ("fastestdet_352_bn", 2), ("mlperf_tiny_resnet8_bn", 1.2)],
)
def test_real_models(name: str, gain: float, assets: Path) -> None:
    graph = Pipeline(default_passes()).run(load(assets / "models" / f"{name}.onnx")).graph
    outcome = equalized(graph)
    assert outcome.results[0].status == "verified"
    median = outcome.results[0].facts["equalized"]["median"]
    assert median["out_after"] * gain < median["out_before"]
    assert Pipeline([Equalize()]).run(outcome.graph).results[0].status == "unchanged"


def test_a_network_of_silu_is_left_alone_with_a_reason(assets: Path) -> None:
    graph = Pipeline(default_passes()).run(load(assets / "models" / "yolox_nano.onnx")).graph
    result = Pipeline([Equalize()]).run(graph).results[0]
    assert result.status == "unchanged"
    assert {n.what for n in result.refusals} == {
        "its channels keep their scale: Sigmoid is not positively homogeneous"
    }
