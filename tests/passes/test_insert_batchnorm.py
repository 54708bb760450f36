"""insert-batchnorm: the identity in inference, unit variance inside, folded again without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, value_of
from graphopt.oracle import Oracle
from graphopt.passes.prune.insert_batchnorm import InsertBatchnorm, statistics
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes
from graphopt.runtime.run import open_graph

NETWORK = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[6,3,3,3] w1, float[6] b1, float[6,1,3,3] w2, float[6,4,2,2] w3, float[7,4] w4, float[7] b4,
     float[5,7] w5>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)  r1 = Relu (c1)
      c2 = Conv <group = 6, pads = [1,1,1,1]> (r1, w2)  r2 = Sigmoid (c2)
      c3 = ConvTranspose <strides = [2,2]> (r2, w3)  r3 = Relu (c3)
      p = GlobalAveragePool (r3)  f = Flatten (p)
      g = Gemm <transB = 1> (f, w4, b4)  r4 = Tanh (g)  y = Gemm <transB = 1> (r4, w5) }"""


def _data(count: int = 12) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32) + 0.5


def _inserted(graph: Graph, more: str = "") -> Outcome:
    passes = [InsertBatchnorm(data=_data(), batch=5), *(parse_passes(more) if more else [])]
    return Pipeline(passes).run(graph, oracle=Oracle(graph), strict=True)


def test_every_hidden_layer_gets_one_and_nothing_changes() -> None:
    outcome = _inserted(graph_from(NETWORK))
    assert outcome.results[0].status == "verified"
    assert outcome.results[0].error < 1e-5
    assert [n.op for n in outcome.graph.nodes].count("BatchNormalization") == 4
    assert [(n.where, n.what) for n in outcome.results[0].refusals] == [
        (outcome.graph.nodes[-1].name, "its result is an output of the model")
    ]


def test_statistics_are_those_of_the_images() -> None:
    graph = graph_from(NETWORK)
    conv = graph.nodes[0].outputs[0].name
    twin = graph.copy()
    twin.outputs = [twin.tensors()[conv]]
    values = open_graph(twin).run({"x": _data()})[conv]
    # batches of unequal length count by their images
    feeds = [{"x": _data()[:5]}, {"x": _data()[5:]}]
    ((mean, var),) = statistics(graph, [conv], feeds)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, values.var((0, 2, 3)), rtol=1e-4)


def test_normalized_values_have_unit_variance() -> None:
    outcome = _inserted(graph_from(NETWORK))
    norm = next(n for n in outcome.graph.nodes if n.op == "BatchNormalization")
    twin = outcome.graph.copy()
    source = twin.tensors()[norm.inputs[0].name]
    twin.outputs = [source]
    values = open_graph(twin).run({"x": _data()})[source.name].astype(np.float64)
    mean, var = value_of(norm.inputs[3]), value_of(norm.inputs[4])
    normal = (values - mean.reshape(1, -1, 1, 1)) / np.sqrt(var.reshape(1, -1, 1, 1) + 1e-5)
    np.testing.assert_allclose(normal.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.var((0, 2, 3)), 1, rtol=1e-2)


def test_folds_again() -> None:
    outcome = _inserted(graph_from(NETWORK), "fuse-conv-bn")
    assert outcome.results[1].status == "verified"
    assert "BatchNormalization" not in [n.op for n in outcome.graph.nodes]


def test_needs_images() -> None:
    with pytest.raises(UsageError, match="data=FOLDER"):
        Pipeline([InsertBatchnorm()]).run(graph_from(NETWORK))


def test_what_has_one_is_left_alone() -> None:
    once = _inserted(graph_from(NETWORK)).graph
    outcome = Pipeline([InsertBatchnorm(data=_data())]).run(once)
    assert outcome.results[0].status == "unchanged"
