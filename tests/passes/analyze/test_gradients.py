"""Gradients without labels: against numbers, and in the importances that need them."""

from __future__ import annotations

import numpy as np
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.ir.graph import Graph
from graphopt.passes.analyze import scores
from graphopt.passes.analyze.gradients import OwnGradients
from graphopt.runtime.run import open_graph

NETWORK = """(float[N,3,6,6] x) => (float[N,4] y)
    <float[6,3,3,3] w, float[6] g, float[6] b, float[6] m, float[6] var, float[4,6] f>
    { c = Conv (x, w)  n = BatchNormalization (c, g, b, m, var)  r = Relu (n)
      p = GlobalAveragePool (r)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""
MAPS = """(float[N,3,6,6] x) => (float[N,2,4,4] y) <float[6,3,3,3] w, float[2,6,1,1] h>
    { c = Conv (x, w)  r = Relu (c)  s = Conv (r, h)  y = Sigmoid (s) }"""
X = np.random.default_rng(0).standard_normal((6, 3, 6, 6)).astype(np.float32)


def loss(graph: Graph, output: str, x: np.ndarray, *, classes: bool) -> float:
    twin = graph.copy()
    twin.outputs = [twin.tensors()[output]]
    z = open_graph(twin).run({"x": x[None]})[output].astype(np.float64)
    return (
        float(-np.log(np.exp(z - z.max()).max() / np.exp(z - z.max()).sum()))
        if classes
        else float(np.square(z).mean() / 2)
    )


def test_equal_differences_of_the_loss() -> None:
    for text, head, names, classes in (
        (NETWORK, "y", ("w", "g", "b", "f"), True),
        (MAPS, "s", ("w", "h"), False),
    ):
        graph = graph_from(text)
        found = list(OwnGradients(graph, [{"x": X[:2]}]))
        assert len(found) == 2
        for name in names:
            values = graph.tensors()[name].values
            at = (0,) * values.ndim
            step = []
            for sign in (1, -1):
                moved = graph.copy()
                array = values.copy()
                array[at] += sign * 1e-2
                moved.tensors()[name].values = array
                step.append(loss(moved, head, X[1], classes=classes))
            np.testing.assert_allclose(
                found[1][name][at], (step[0] - step[1]) / 2e-2, rtol=0.05, atol=1e-5
            )


def test_can_be_read_twice() -> None:
    gradients = OwnGradients(graph_from(NETWORK), [{"x": X}])
    first, second = list(gradients), list(gradients)
    assert len(first) == len(second) == 6
    np.testing.assert_array_equal(first[3]["w"], second[3]["w"])


def test_importances_find_the_channel_that_does_nothing() -> None:
    graph = graph_from(NETWORK)
    dead = graph.tensors()["f"].values.copy()
    dead[:, 2] = 0
    graph.tensors()["f"].values = dead
    channels = Channels(graph)
    unit = channels.units_of(channels.sweep.axes(graph.tensors()["r"])[1])[2]
    for importance in ("taylor", "group-fisher", "obd"):
        found = scores(channels, importance, gradients=OwnGradients(graph, [{"x": X}]))
        assert int(np.argmin(found)) == int(unit), importance


def test_images_are_enough() -> None:
    channels = Channels(graph_from(NETWORK))
    given = scores(channels, "taylor", gradients=OwnGradients(channels.graph, [{"x": X}]))
    np.testing.assert_array_equal(scores(channels, "taylor", data=[X]), given)
