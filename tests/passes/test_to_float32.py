"""to-float32: files exported in half become what everything else works on."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
from conftest import graph_from

from graphopt.compile import compile_file
from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.to_float32 import ToFloat32
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes
from graphopt.runtime.run import open_graph
from graphopt.runtime.targets import target

HALF = """(float16[N,3,8,8] x) => (float16[N,4,4,4] y)
    <float16[8,3,3,3] w, float16[8] b, float16[4,8,3,3] v, float16 six = {6}>
    { c = Conv (x, w, b)  r = Clip (c, , six)  f = Cast <to = 1> (r)  s = Sigmoid (f)
      h = Cast <to = 10> (s)  y = Conv (h, v) }"""


def widened(graph: Graph) -> Outcome:
    return Pipeline([ToFloat32()]).run(graph, strict=True)


def test_computes_the_same_but_for_what_half_rounds() -> None:
    graph = graph_from(HALF)
    made = widened(graph)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float16)
    before = open_graph(graph).run({"x": x})["y"]
    after = open_graph(made.graph).run({"x": x.astype(np.float32)})["y"]
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, before.astype(np.float32), atol=0.02 * np.abs(after).max())
    for name, tensor in made.graph.tensors().items():
        assert np.dtype(tensor.dtype) == np.float32, name
    w = graph.tensors()["w"].values
    np.testing.assert_array_equal(made.graph.tensors()["w"].values, w.astype(np.float32))
    assert graph.tensors()["w"].values.dtype == np.float16  # the graph before is left alone
    assert made.results[0].status == "unverified"


def test_bfloat16_too() -> None:
    graph = (
        Pipeline(parse_passes("to-bfloat16{io=bfloat16}"))
        .run(graph_from("(float[N,4] x) => (float[N,2] y) <float[4,2] w> { y = MatMul (x, w) }"))
        .graph
    )
    assert np.dtype(graph.inputs[0].dtype) == np.dtype(ml_dtypes.bfloat16)
    made = widened(graph)
    assert {np.dtype(t.dtype) for t in made.graph.tensors().values()} == {np.dtype(np.float32)}


def test_what_narrowing_put_in_comes_out_again() -> None:
    """float32 -> float16 -> float32 leaves Casts to the type there is, which merge-casts takes away."""
    graph = graph_from("(float[N,4] x) => (float[N,2] y) <float[4,2] w> { y = MatMul (x, w) }")
    made = Pipeline(parse_passes("to-float16, to-float32, merge-casts")).run(graph, strict=True)
    assert [n.op for n in made.graph.nodes] == ["MatMul"]


def test_float32_is_left_alone() -> None:
    graph = graph_from("(float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    assert widened(graph).results[0].status == "unchanged"


def test_other_domains_are_refused_whole() -> None:
    graph = graph_from("(float16[N,4] x) => (float16[N,4] y) { a = Relu (x)  y = Neg (a) }")
    graph.nodes[1].domain = "com.example"
    made = Pipeline([ToFloat32()]).run(graph)
    assert made.results[0].status == "unchanged"
    assert "com.example" in made.results[0].refusals[0].what


def test_a_file_in_half_compiles(tmp_path: Path) -> None:
    save(graph_from(HALF.replace("N", "1")), tmp_path / "half.onnx")
    made = compile_file(tmp_path / "half.onnx", tmp_path / "bundle", target=target("host"))
    assert made.error is not None
    assert made.error < 1e-4
    assert any("holds float16" in note for note in made.notes)
