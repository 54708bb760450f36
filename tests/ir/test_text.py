"""The text of a graph: readable, and the same whatever things are called."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.ir.graph import Graph
from graphopt.ir.text import to_text

NET = """(float[N,4] x, bool p) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}, float[4,4] v, int64[1] axes = {1}>
    { a = Mul (x, w)  b = MatMul (a, v)  m = ReduceMean <keepdims = 1> (b, axes)  s = Sub (b, m)
      y = If (p) <then_branch = t () => (float[N,4] t) { t = Mul (s, w) },
                  else_branch = e () => (float[N,4] e) { k = Neg (s)  e = Clip (k, , w0) }> }"""


def net() -> Graph:
    return graph_from(NET.replace("k = Neg (s)  e = Clip (k, , w0)", "k = Neg (s)  e = Clip (k)"))


def test_the_text_of_a_small_graph() -> None:
    graph = graph_from(
        """(float[N,4] x) => (float[N,2] y) <float[4,2] w, float[2] b = {0.5, -1.0}, float high = {6.0}>
        { g = Gemm <transB = 0, alpha = 0.5> (x, w, b)  y = Clip (g, , high) }"""
    )
    graph.tensors()["w"].values = np.ones((4, 2), np.float32)
    assert to_text(graph) == (
        "graph (float[N,4] x) => (float[N,2] y)\n"
        "  float[4,2] c0 = {1, 1, 1, 1, 1, 1, 1, 1}\n"
        "  float[2] c1 = {0.5, -1}\n"
        "  t0 = Gemm <alpha = 0.5, transB = 0> (x, c0, c1)  # float[N,2]\n"
        "  float[] c2 = {6}\n"
        '  y = Clip (t0, "", c2)  # float[N,2]\n'
    )


def test_names_do_not_matter() -> None:
    graph = net()
    before = to_text(graph)
    boundary = {id(t) for t in [*graph.inputs, *graph.outputs]}
    for k, tensor in enumerate(t for t in graph.tensors().values() if id(t) not in boundary):
        tensor.name = f"other{k}"
    for k, node in enumerate(graph.nodes):
        node.name = f"node{k}"
        node.attrs = dict(reversed(node.attrs.items()))
    assert to_text(graph) == before
    assert to_text(graph.copy()) == before
    assert to_text(net()) == before


@pytest.mark.parametrize(
    "change", ["operator", "attribute", "wiring", "shape", "small value", "large value", "branch"]
)
def test_what_is_computed_does_matter(change: str) -> None:
    graph = net()
    before = to_text(graph)
    mul, matmul, mean, sub, branch = graph.nodes
    if change == "operator":
        mul.op = "Add"
    elif change == "attribute":
        mean.attrs["keepdims"] = 0
    elif change == "wiring":
        sub.inputs[0], sub.inputs[1] = sub.inputs[1], sub.inputs[0]
    elif change == "shape":
        graph.inputs[0].shape = [2, 4]
    elif change == "small value":
        mul.inputs[1].values = np.array([1, 2, 3, 5], np.float32)
    elif change == "large value":
        matmul.inputs[1].values = matmul.inputs[1].values * 2
    else:
        next(iter(branch.subgraphs())).nodes[0].op = "Add"
    assert to_text(graph) != before


def test_the_last_bit_of_a_large_constant_does_not_show() -> None:
    graph = net()
    before = to_text(graph)
    weight = graph.nodes[1].inputs[1]
    weight.values = np.nextafter(weight.values, np.float32(np.inf))
    assert to_text(graph) == before


def test_unknown_shapes_and_types() -> None:
    graph = graph_from("(float[?,4] x) => (float[?,4] y) { y = Relu (x) }")
    assert "float[?,4] x" in to_text(graph)
    graph.inputs[0].shape, graph.outputs[0].dtype = None, None
    assert to_text(graph).splitlines() == ["graph (float[?...] x) => (? y)", "  y = Relu (x)  # ?"]
