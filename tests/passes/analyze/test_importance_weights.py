"""Importances that look at weights alone, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.passes.analyze import scores
from graphopt.passes.analyze.importance.fpgm import Fpgm

CHAIN = """(float[1,1,2,2] x) => (float[1,2,2,2] y) <float[3,1,1,2] w, float[2,3,1,1] v>
    { c = Conv <pads = [0,0,0,1]> (x, w)  r = Relu (c)  y = Conv (r, v) }"""
FILTERS = np.float32([[3, -4], [0, 1], [0, 0]]).reshape(3, 1, 1, 2)
READERS = np.float32([[1, 2, 3], [1, -2, 0]]).reshape(2, 3, 1, 1)


def chain(**values: Any) -> Channels:
    graph = graph_from(CHAIN)
    values = {"w": FILTERS, "v": READERS, **values}
    for name, value in values.items():
        graph.tensors()[name].values = value
    return Channels(graph)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("l1", [7, 1, 0]),
        ("l2", [5, 1, 0]),
        ("l1{sides=input}", [2, 4, 3]),
        ("l1{sides=both}", [4.5, 2.5, 1.5]),
        ("fpgm", [np.sqrt(34) + 5, np.sqrt(34) + 1, 6]),
        ("lamp", [1, 1 / 26, 0]),
    ],
)
def test_values(importance: str, expected: list[float]) -> None:
    assert scores(chain(), importance, normalize="none") == pytest.approx(expected, rel=1e-12)


def test_a_layers_mean_is_the_default_unit() -> None:
    assert scores(chain(), "l1") == pytest.approx([21 / 8, 3 / 8, 0])


def test_fpgm_is_the_sum_of_all_distances() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((700, 12)).astype(np.float32)  # more than one block
    rows[5] = rows[6]
    naive = np.linalg.norm(rows[:, None].astype(np.float64) - rows, axis=2).sum(1)
    assert Fpgm().of_rows(rows) == pytest.approx(naive, rel=1e-9)


def test_lamp_ties_share_a_score() -> None:
    tied = np.float32([[1, 0], [0, 1], [2, 0]]).reshape(3, 1, 1, 2)
    assert scores(chain(w=tied), "lamp") == pytest.approx([1 / 6, 1 / 6, 1])


def test_bn_gamma() -> None:
    graph = graph_from("""(float[1,1,2,2] x) => (float[1,2,2,2] y)
        <float[3,1,1,1] w, float[3] gamma = {-2.0, 0.5, 0.0}, float[3] beta, float[3] mean,
         float[3] var, float[2,3,1,1] v>
        { c = Conv (x, w)  b = BatchNormalization (c, gamma, beta, mean, var)  y = Conv (b, v) }""")
    assert scores(Channels(graph), "bn-gamma") == pytest.approx([2, 0.5, 0])


def test_bn_gamma_leaves_layers_without_one_for_last() -> None:
    graph = graph_from("""(float[1,1,2,2] x) => (float[1,2,2,2] y)
        <float[3,1,1,1] w, float[3] gamma = {-2.0, 0.5, 0.1}, float[3] beta, float[3] mean,
         float[3] var, float[2,3,1,1] u, float[2,2,1,1] v>
        { c = Conv (x, w)  b = BatchNormalization (c, gamma, beta, mean, var)
          r = Conv (b, u)  y = Conv (r, v) }""")
    assert scores(Channels(graph), "bn-gamma").tolist() == pytest.approx([2, 0.5, 0.1, 2, 2])


def test_bn_gamma_needs_one() -> None:
    with pytest.raises(UsageError, match="folded|fold BatchNormalization"):
        scores(chain(), "bn-gamma")


MATRICES = {
    "matmul": "y1 = MatMul (x, w)",
    "gemm": "y1 = Gemm (x, w)",
    "gemm_turned": "t = Transpose <perm = [1,0]> (w)  y1 = Gemm <transB = 1> (x, t)",
    "computed": "two = Constant <value = float {1.0}> ()  t = Mul (w, two)  y1 = Gemm (x, t)",
}


@pytest.mark.parametrize("case", MATRICES)
def test_columns_of_a_matrix_are_channels(case: str) -> None:
    graph = graph_from(f"""(float[N,2] x) => (float[N,2] y)
        <float[2,3] w = {{1.0, 2.0, 3.0, -1.0, 0.0, 1.0}}, float[3,2] v>
        {{ {MATRICES[case]}  y = MatMul (y1, v) }}""")
    assert scores(Channels(graph), "l1", normalize="none").tolist() == [2, 2, 4]


def test_transposed_convolution() -> None:
    graph = graph_from("""(float[1,2,2,2] x) => (float[1,2,2,2] y)
        <float[2,3,1,1] w = {1.0, 2.0, 3.0, -1.0, 0.0, 1.0}, float[2,3,1,1] v>
        { c = ConvTranspose (x, w)  y = Conv (c, v) }""")
    assert scores(Channels(graph), "l1", normalize="none").tolist() == [2, 2, 4]


def test_random_depends_on_the_seed_alone() -> None:
    first, again, other = (scores(chain(), "random", seed=s) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()
    assert ((first >= 0) & (first < 1)).all()


def test_half_precision_is_summed_in_more() -> None:
    graph = graph_from("""(float16[1,1] x) => (float16[1,1] y)
        <float16[1,2] w, float16[2,1] v> { h = MatMul (x, w)  y = MatMul (h, v) }""")
    graph.tensors()["w"].values = np.float16([[60000, 1]])
    assert np.isfinite(scores(Channels(graph), "l2")).all()


def test_nothing_to_remove() -> None:
    graph = graph_from(
        "(float[1,1,2,2] x) => (float[1,2,2,2] y) <float[2,1,1,1] w> { y = Conv (x, w) }"
    )
    assert scores(Channels(graph), "l1").shape == (0,)
