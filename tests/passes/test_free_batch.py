"""free-batch: fixed batches become free, provably, or the model is left alone with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Ran, graph_from, run_pass

from graphopt.pipeline import Pipeline
from graphopt.registry import parse_passes
from graphopt.runtime.run import open_graph

HEAD = """(float[1,4,6,6] x) => (float[1,36,12] y)
    <float[12,4,1,1] w, int64[3] shape = {1, 12, 36}>
    { c = Conv (x, w)  r = Reshape (c, shape)  y = Transpose <perm = [0,2,1]> (r) }"""
SHUFFLE = """(float[1,8,4,4] x) => (float[1,8,4,4] y)
    <int64[3] apart = {4, 2, 16}, int64[5] back = {2, 1, 4, 4, 4}, int64[4] joined = {1, 8, 4, 4}>
    { a = Reshape (x, apart)  t = Transpose <perm = [1,0,2]> (a)  b = Reshape (t, back)
      s = Transpose <perm = [1,0,2,3,4]> (b)  y = Reshape (s, joined) }"""
TOKEN = """(float[1,3,8] x) => (float[1,4,8] y)
    <float[1,1,8] cls> { y = Concat <axis = 1> (cls, x) }"""
RESIZED = """(float[1,2,3,3] x) => (float[1,2,6,6] y)
    <int64[4] sizes = {1, 2, 6, 6}> { y = Resize <mode = "nearest"> (x, , , sizes) }"""


@pytest.mark.parametrize(
    "text", [HEAD, SHUFFLE, TOKEN, RESIZED], ids=["head", "shuffle", "token", "resize"]
)
def test_takes_any_batch_afterwards(text: str) -> None:
    graph = graph_from(text)
    ran: Ran = run_pass("free-batch", graph)
    assert ran.result.status == "verified", ran.result.refusals
    assert ran.graph.inputs[0].shape[0] == "batch"
    x = np.random.default_rng(0).standard_normal((5, *graph.inputs[0].shape[1:])).astype(np.float32)
    one_by_one = [open_graph(graph).run({"x": x[i : i + 1]})["y"] for i in range(5)]
    together = open_graph(ran.graph).run({"x": x})["y"]
    np.testing.assert_allclose(together, np.concatenate(one_by_one), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "(float[2,8] x) => (float[1,8] y) <int64[1] a = {0}> { y = ReduceMean (x, a) }",
            "output 'y' has no batch axis",
        ),
        (
            """(float[2,8] x) => (float[2,8] y) <int64[1] a = {0}>
            { m = ReduceMean (x, a)  y = Sub (x, m) }""",
            "depends on the others in the batch",
        ),
        (
            """(float[1,8] x) => (float[1,8] y) <int64[1] a = {0}, int64[2] s = {1, 8}>
            { f = Squeeze (x, a)  y = Reshape (f, s) }""",
            "does not run with a batch of 2",
        ),
    ],
    ids=["no-axis", "mixes", "squeezed"],
)
def test_left_alone_where_images_mix(text: str, reason: str) -> None:
    ran = run_pass("free-batch", graph_from(text))
    assert ran.result.status == "unchanged"
    assert [reason in n.what for n in ran.result.refusals] == [True]


def test_free_already() -> None:
    ran = run_pass("free-batch", graph_from("(float[N,8] x) => (float[N,8] y) { y = Relu (x) }"))
    assert ran.result.status == "unchanged"
    assert not ran.result.refusals


def test_real_models_are_freed(assets) -> None:
    from graphopt.frontends.onnx_file import load

    for name in ("yolov5n_416_bn", "fastestdet_352_bn", "version-slim-320"):
        graph = load(assets / "models" / f"{name}.onnx")
        outcome = Pipeline(parse_passes("free-batch")).run(graph)
        assert outcome.graph.inputs[0].shape[0] == "batch", name
