"""to-bfloat16: as to-float16, but nothing overflows; judged by onnx.reference, which has kernels for it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from conftest import Ran, graph_from

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.oracle import errors_of
from graphopt.passes.quantize.to_bfloat16 import ToBfloat16
from graphopt.passes.quantize.to_float16 import ToFloat16
from graphopt.pipeline import Pipeline
from graphopt.runtime.run import open_graph, open_reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
X = "float[N,3,8,8] x"
W = "float[8,3,3,3] w, float[8] b, float[4,8,3,3] v"

REWRITES = {
    "convolutions": f"""({X}) => (float[N,4,4,4] y) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }}""",
    "pool_and_gemm": f"""({X}) => (float[N,5] y) <{W}, float[72,5] u, float zero = {{0}}, float six = {{6}}>
        {{ a = Conv (x, w, b)  r = Clip (a, zero, six)
           p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)  f = Flatten (p)  y = Gemm (f, u) }}""",
    "kept": f"""({X}) => (float[N,4,4,4] y) <{W}>
        {{ a = Conv (x, w, b)  kept = Sigmoid (a)  c = Conv (kept, v)  y = Tanh (c) }}""",
}


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)


def narrowed(graph: Graph, **options: object) -> Ran:
    outcome = Pipeline([ToBfloat16(**options)]).run(graph, strict=True)
    return Ran(outcome.graph, outcome.results[0])


@pytest.mark.parametrize("case", REWRITES)
def test_narrows(case: str, golden) -> None:
    graph = graph_from(REWRITES[case])
    options = {"keep": "Sigmoid"} if case == "kept" else {}
    ran = narrowed(graph, **options)
    assert ran.graph.opset == 22
    expected = open_graph(graph).run({"x": images()})
    found = open_reference(ran.graph, 0).run({"x": images()})
    error = max(errors_of(expected, found).values())
    assert 1e-4 < error < 0.1  # 8 bits
    assert narrowed(ran.graph, **options).result.status == "unchanged"
    golden(ran.text)


def test_what_float16_cannot_hold_is_narrow_all_the_same() -> None:
    graph = graph_from(REWRITES["convolutions"])
    conv = graph.nodes[0]
    conv.inputs[1].values = conv.inputs[1].values * np.float32(1e30)
    ran = narrowed(graph, data=images())
    convs = [n for n in ran.graph.nodes if n.op == "Conv"]
    assert [c.inputs[1].dtype for c in convs] == [BFLOAT16, BFLOAT16]
    assert not ran.reasons


def test_what_has_no_bfloat16_stays() -> None:
    graph = graph_from(
        """(float[N,8] x) => (float[N,2] y, int64[N,2] i) <float[8,8] w, int64[1] k = {2}>
        { a = MatMul (x, w)  r = Relu (a)  y, i = TopK (r, k) }"""
    )
    ran = narrowed(graph)
    assert "TopK of opset 22 does not compute in bfloat16" in ran.reasons
    assert ran.ops == ["Cast", "MatMul", "Relu", "Cast", "TopK"]


def test_an_operator_whose_meaning_changed_keeps_the_opset() -> None:
    graph = graph_from(
        """(float[N,8,4,4] x) => (float[N,8,4,4] y) <float[2] s, float[2] b, float[8,8] w>
        { g = GroupNormalization <num_groups = 2> (x, s, b)  r = Relu (g)  y = Tanh (r) }"""
    )
    ran = narrowed(graph)
    assert ran.graph.opset == 20
    assert "GroupNormalization means something else from opset 21 on" in ran.reasons


def test_a_graph_that_is_left_alone_keeps_its_opset() -> None:
    graph = graph_from(REWRITES["convolutions"])
    # The pass after it is handed the same copy, and rewrites it.
    outcome = Pipeline([ToBfloat16(keep="*"), ToFloat16()]).run(graph, strict=True)
    assert [r.status for r in outcome.results] == ["unchanged", "unverified"]
    assert outcome.graph.opset == 20


def test_inputs_and_outputs_become_narrow_when_asked() -> None:
    graph = graph_from(REWRITES["convolutions"])
    ran = narrowed(graph, io="bfloat16")
    assert "Cast" not in ran.ops
    assert [t.dtype for t in (*ran.graph.inputs, *ran.graph.outputs)] == [BFLOAT16, BFLOAT16]
    with pytest.raises(UsageError, match="float32, bfloat16"):
        narrowed(graph, io="float16")
