"""Importances that look at feature maps, against their definitions written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import ModelError, UsageError
from graphopt.passes.analyze import Evidence, scores
from graphopt.passes.analyze.importance.chip import independence
from graphopt.passes.analyze.importance.hrank import ranks
from graphopt.runtime.run import open_graph

NET = """(float[N,2,6,5] x) => (float[N,2,4,3] y, float[N,5,4,3] r)
    <float[4,2,3,3] w, float[4] b, float[5,4,1,1] u, float[2,5,1,1] v>
    { c = Conv (x, w, b)  a = Relu (c)  d = Conv (a, u)  r = Relu (d)  y = Conv (r, v) }"""


def net() -> Channels:
    # The second output exists to compare with; it holds the channels of `d`.
    return Channels(graph_from(NET))


def images(count: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal((count, 2, 6, 5)).astype(np.float32)


def feature(channels: Channels, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    graph = channels.graph.copy()
    graph.outputs = [graph.tensors()["a"]]
    return open_graph(graph).run({"x": data})["a"]


def naive_independence(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    def norm(m: np.ndarray[Any, Any]) -> float:
        return float(np.linalg.svd(m, compute_uv=False).sum())

    a = a.astype(np.float64)
    return np.array([norm(a) - norm(np.delete(a, c, 0)) for c in range(len(a))])


def test_hrank_is_the_mean_rank() -> None:
    channels, data = net(), images()
    expected = np.linalg.matrix_rank(feature(channels, data)).mean(0)
    assert scores(channels, "hrank", data=[data], normalize="none") == pytest.approx(expected)


def test_chip_is_the_mean_independence() -> None:
    channels, data = net(), images()
    maps = feature(channels, data).reshape(6, 4, -1)
    expected = np.mean([naive_independence(m) for m in maps], 0)
    assert scores(channels, "chip", data=[data], normalize="none") == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("form", ["abs", "nonzero"])
def test_activation_is_the_mean(form: str) -> None:
    channels, data = net(), images()
    maps = feature(channels, data)
    expected = (np.abs(maps) if form == "abs" else maps > 0).mean((0, 2, 3))
    found = scores(channels, f"activation{{form={form}}}", data=[data], normalize="none")
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("importance", ["activation", "hrank", "chip"])
def test_batches_do_not_matter(importance: str) -> None:
    channels, data = net(), images()
    whole = scores(channels, importance, data=[data])
    assert scores(channels, importance, data=[data[:1], data[1:]]) == pytest.approx(whole, rel=1e-9)
    assert scores(channels, importance, data=list(data)) == pytest.approx(whole, rel=1e-9)


MATRICES = {
    "wide": (12, 40, None),
    "tall": (40, 9, None),
    "square": (20, 20, None),
    "one position": (6, 1, None),
    "one channel": (1, 5, None),
    "half is zero": (30, 25, 0),
    "repeated": (10, 30, 1),
}


@pytest.mark.parametrize("case", MATRICES)
def test_independence_is_a_difference_of_nuclear_norms(case: str) -> None:
    rows, columns, special = MATRICES[case]
    a = np.random.default_rng(0).standard_normal((rows, columns))
    if special == 0:
        a = np.maximum(a, 0)
    if special == 1:
        a[1::2] = a[::2]
    assert independence(a) == pytest.approx(naive_independence(a), rel=1e-7)


def test_independence_of_nothing() -> None:
    assert independence(np.zeros((3, 4))).tolist() == [0, 0, 0]
    found = independence(np.vstack([np.zeros(9), np.random.default_rng(0).standard_normal((3, 9))]))
    assert abs(found[0]) < 1e-9 * found[1:].min()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [(5, 8), (8, 5), (1, 1)])
def test_ranks_are_those_of_numpy(dtype: Any, size: tuple[int, int]) -> None:
    a = np.random.default_rng(0).standard_normal((4, *size)).astype(dtype)
    a[1, 1:] = a[1, :1]
    a[2] = 0
    expected = np.linalg.matrix_rank(a.astype(np.float32 if dtype == np.float16 else dtype))
    assert ranks(a).tolist() == expected.tolist()


ACTIVATIONS = {
    "relu": "z = Relu (c)",
    "silu": "s = Sigmoid (c)  z = Mul (c, s)",
    "mish": "s = Softplus (c)  t = Tanh (s)  z = Mul (t, c)",
    "hswish": """three = Constant <value = float {3.0}> ()  six = Constant <value = float {6.0}> ()
        zero = Constant <value = float {0.0}> ()
        s = Add (c, three)  t = Clip (s, zero, six)  m = Mul (c, t)  z = Div (m, six)""",
    "hswish_gate_last": """three = Constant <value = float {3.0}> ()
        six = Constant <value = float {6.0}> ()  zero = Constant <value = float {0.0}> ()
        s = Add (three, c)  t = Clip (s, zero, six)  g = Div (t, six)  z = Mul (c, g)""",
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_the_feature_map_is_behind_the_activation(case: str) -> None:
    graph = graph_from(f"""(float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[4,2,1,1] w, float[2,4,1,1] v, float[2,4,1,1] v2>
        {{ c = Conv (x, w)  {ACTIVATIONS[case]}  p = Conv (z, v)  q = Conv (z, v2)  y = Add (p, q) }}""")
    assert [f.tensor.name for f in Evidence(Channels(graph)).features] == ["z"]


def test_a_residual_is_no_activation() -> None:
    graph = graph_from("""(float[1,2,3,3] x) => (float[1,2,3,3] y)
        <float[4,2,1,1] w, float[4,4,1,1] u, float[2,4,1,1] v>
        { c = Conv (x, w)  d = Conv (c, u)  s = Add (c, d)  y = Conv (s, v) }""")
    assert [f.tensor.name for f in Evidence(Channels(graph)).features] == ["c", "d"]


def test_tokens_have_their_channels_last() -> None:
    graph = graph_from("""(float[N,5,2] x) => (float[N,5,2] y) <float[2,3] w, float[3,2] v>
        { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }""")
    channels = Channels(graph)
    data = np.random.default_rng(0).standard_normal((2, 5, 2)).astype(np.float32)
    hidden = np.maximum(data @ graph.tensors()["w"].values, 0)
    expected = np.mean([naive_independence(m.T) for m in hidden], 0)
    assert scores(channels, "chip", data=[data], normalize="none") == pytest.approx(
        expected, rel=1e-6
    )
    with pytest.raises(UsageError, match="two-dimensional"):
        scores(channels, "hrank", data=[data])


@pytest.mark.parametrize("importance", ["activation", "hrank", "chip"])
def test_data_is_asked_for(importance: str) -> None:
    with pytest.raises(UsageError, match=f"'{importance}' needs calibration data: give data="):
        scores(net(), importance)
    with pytest.raises(UsageError, match="data= is empty"):
        scores(net(), importance, data=[])


@pytest.mark.parametrize("importance", ["activation", "hrank", "chip"])
def test_nan_in_the_data_names_the_layer(importance: str) -> None:
    data = images()
    data[2] = np.nan
    with pytest.raises(ModelError, match=f"layer '.+': {importance} scores of 4 of its 4 channels"):
        scores(net(), importance, data=[data])
