"""lower-opset: the same network in older operators, or the node that is in the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import graph_from, run_pass

import graphopt
from graphopt.errors import UnsupportedError, UsageError
from graphopt.passes.lower.lower_opset import LowerOpset
from graphopt.pipeline import Pipeline
from graphopt.runtime.run import open_graph

REWRITES = {
    "hard_swish": "(float[N,4] x) => (float[N,4] y) { y = HardSwish (x) }",
    "mish": "(float[N,4] x) => (float[N,4] y) { y = Mish (x) }",
    "gelu": "(float[N,4] x) => (float[N,4] y) { y = Gelu (x) }",
    "gelu_by_tanh": '(float[N,4] x) => (float[N,4] y) { y = Gelu <approximate = "tanh"> (x) }',
    "layer_norm": """(float[2,3,8] x) => (float[2,3,8] y) <float[8] g, float[8] b>
        { y = LayerNormalization <epsilon = 0.01> (x, g, b) }""",
    "layer_norm_of_two_axes": """(float[2,3,8] x) => (float[2,3,8] y) <float[3,8] g>
        { y = LayerNormalization <axis = 1> (x, g) }""",
    "reduced_axes": """(float[2,3,8] x) => (float[2,8] y) <int64[1] axes = {1}>
        { y = ReduceMean <keepdims = 0> (x, axes) }""",
    "all_axes": """(float[2,3] x) => (float[1,1] y)
        { y = ReduceMax <noop_with_empty_axes = 0> (x) }""",
    "uneven_split": """(float[2,7] x) => (float[2,3] a, float[2,3] b, float[2,1] c)
        { a, b, c = Split <axis = 1, num_outputs = 3> (x) }""",
    "padded_axes": """(float[1,2,3,4] x) => (float[1,2,7,7] y)
        <int64[4] pads = {1, 2, 3, 1}, float fill = {0.5}, int64[2] axes = {-2, 3}>
        { y = Pad (x, pads, fill, axes) }""",
    "resized_axes": """(float[1,2,3,4] x) => (float[1,2,6,8] y) <float[2] twice = {2.0, 2.0}>
        { y = Resize <axes = [2, 3], mode = "nearest", coordinate_transformation_mode = "asymmetric",
          nearest_mode = "floor", antialias = 0> (x, , twice) }""",
    "attributes_that_say_nothing": """(float[1,2,6,6] x) => (float[1,18] y) <int64[2] s = {1, 18}>
        { p = AveragePool <kernel_shape = [2,2], strides = [2,2], dilations = [1,1]> (x)
          y = Reshape <allowzero = 0> (p, s) }""",
}
REFUSES = {
    "GridSample": """(float[1,2,3,4] x, float[1,3,3,2] g) => (float[1,2,3,3] y)
        { y = GridSample (x, g) }""",
    "its attribute antialias": """(float[1,2,6,6] x) => (float[1,2,3,3] y)
        <float[4] s = {1.0, 1.0, 0.5, 0.5}>
        { y = Resize <mode = "linear", antialias = 1> (x, , s) }""",
    "its attribute allowzero": """(float[0,2] x) => (float[0,1] y) <int64[2] s = {0, 1}>
        { y = Reshape <allowzero = 1> (x, s) }""",
    "it has 2 inputs": """(float[2,3] x, int64[1] axes) => (float[1,1] y)
        { y = ReduceMax (x, axes) }""",
    "it has subgraphs": """(bool c, float[2] x) => (float[2] y)
        { y = If (c) <then_branch = a () => (float[2] u) { u = Relu (x) },
                      else_branch = b () => (float[2] v) { v = Neg (x) }> }""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str, golden) -> None:
    ran = run_pass("lower-opset", REWRITES[case])
    assert ran.result.status == "verified"
    golden(ran.text)


@pytest.mark.parametrize("case", REWRITES)
def test_the_result_is_of_opset_13(case: str, tmp_path) -> None:
    graph = graph_from(REWRITES[case])
    older = Pipeline([LowerOpset()]).run(graph).graph
    graphopt.save(older, tmp_path / "older.onnx")
    model = onnx.load(tmp_path / "older.onnx")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    onnx.checker.check_model(model, full_check=True)
    feeds = {
        t.name: np.random.default_rng(0)
        .standard_normal([d if isinstance(d, int) else 3 for d in t.shape])
        .astype(np.float32)
        for t in graph.inputs
    }
    expected, found = (open_graph(g).run(feeds) for g in (graph, older))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reason", REFUSES)
def test_names_what_is_in_the_way(reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        Pipeline([LowerOpset()]).run(graph_from(REFUSES[reason]))


def test_refuses_opsets_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="opset=12 is not one of 13 to 2"):
        Pipeline([LowerOpset(opset=12)]).run(graph_from(REWRITES["mish"]))


def test_a_graph_of_old_operators_only_gets_its_number() -> None:
    graph = graph_from("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    assert Pipeline([LowerOpset()]).run(graph).graph.opset == 13
