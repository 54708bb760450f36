"""Refitting: patches are what a layer multiplies, and the fit is the least-squares solution."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.passes.prune.refit import _by_position, _patches, layers, record, refit
from graphopt.runtime.run import open_graph

CONVS = {
    "plain": ("pads = [1,1,1,1]", "[8,6,3,3]", 12, 12),
    "strided": ("pads = [0,1,2,1], strides = [2,3]", "[8,6,3,2]", 6, 5),
    "dilated": ("pads = [2,2,2,2], dilations = [2,2]", "[8,6,3,3]", 12, 12),
    "grouped": ("pads = [1,1,1,1], group = 2", "[8,3,3,3]", 12, 12),
    "depthwise": ("pads = [1,1,1,1], group = 6", "[6,1,3,3]", 12, 12),
}


@pytest.mark.parametrize("case", CONVS)
def test_patches_are_what_the_layer_multiplies(case: str) -> None:
    attributes, shape, height, width = CONVS[case]
    outputs = shape[1:-1].split(",")[0]
    graph = graph_from(
        f"(float[1,6,12,12] x) => (float[1,{outputs},{height},{width}] y) <float{shape} w> "
        f"{{ y = Conv <{attributes}> (x, w) }}"
    )
    (node,) = graph.nodes
    x = np.random.default_rng(0).standard_normal((1, 6, 12, 12)).astype(np.float32)
    expected = open_graph(graph).run({"x": x})["y"]
    picked = np.array([0, 1, height * width // 2, height * width - 1])
    patches = _patches(x, node, picked)
    groups, weight = patches.shape[1], node.inputs[1].values
    parts = weight.reshape(groups, len(weight) // groups, -1)
    found = np.einsum("pge,goe->pgo", patches, parts).reshape(len(picked), -1)
    np.testing.assert_allclose(found, _by_position(expected)[picked], rtol=1e-4, atol=1e-5)


NET = """(float[N,4,10,10] x) => (float[N,5] y)
    <float[16,4,3,3] w0, float[16,1,3,3] w1, float[8,16,1,1] w2, float[8] b2, float[5,8] w3>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  b = Conv <pads = [1,1,1,1], group = 16> (a, w1)
      c = Conv (b, w2, b2)  r = Relu (c)  p = GlobalAveragePool (r)  f = Flatten (p)
      y = Gemm <transB = 1> (f, w3) }"""


def test_spoiled_weights_are_found_again() -> None:
    """Nothing is removed, so the original weights fit exactly, and the fit has to find them."""
    graph = graph_from(NET)
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((16, 4, 10, 10)).astype(np.float32)}]
    channels = Channels(graph)
    found = layers(channels, np.zeros(0, np.int64))
    assert [layer.output for layer in found] == ["a", "b", "c", "y"]
    targets = record(graph, found, data, seed=0)
    expected = open_graph(graph).run(data[0])["y"]
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm"):
            weight = node.inputs[1]
            weight.values = weight.values + 0.1 * rng.standard_normal(weight.shape).astype(
                np.float32
            )
    spoiled = open_graph(graph).run(data[0])["y"]
    assert refit(graph, found, targets, data) == 4
    fitted = open_graph(graph).run(data[0])["y"]
    assert np.abs(fitted - expected).max() < 0.02 * np.abs(spoiled - expected).max()


def test_weights_read_twice_are_left_alone() -> None:
    graph = graph_from(
        """(float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w>
        { a = Conv (x, w)  r = Relu (a)  y = Conv (r, w) }"""
    )
    assert layers(Channels(graph), np.zeros(0, np.int64)) == []
