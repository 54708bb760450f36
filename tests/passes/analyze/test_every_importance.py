"""What holds for every importance, on one network with a bit of everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.ir.graph import Constant
from graphopt.passes.analyze import IMPORTANCES, NORMALIZATIONS, REDUCTIONS, scores

# Residual, depthwise, grouped, squeeze-excite, transposed convolution, concat, flatten to a matrix.
NET = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w1, float[8] g1, float[8] b1, float[8] m1, float[8] var1,
     float[8,1,3,3] w2, float[8,8,1,1] w3, float[4,8,1,1] w4, float[8,4,1,1] w5,
     float[8,4,1,1] w6, float[8,4,2,2] w7, float[6,8,3,3] w8, float[640,5] w9, float[5] b9>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1)
      n1 = BatchNormalization (c1, g1, b1, m1, var1)  a1 = Relu (n1)
      c2 = Conv <pads = [1,1,1,1], group = 8> (a1, w2)
      c3 = Conv (c2, w3)  s1 = Sigmoid (c3)  a3 = Mul (c3, s1)
      p = GlobalAveragePool (a3)  q4 = Conv (p, w4)  r4 = Relu (q4)  q5 = Conv (r4, w5)
      gate = Sigmoid (q5)  e = Mul (a3, gate)
      sum = Add (a1, e)
      c6 = Conv <group = 2> (sum, w6)  u = ConvTranspose (c6, w7)
      c8 = Conv <pads = [1,1,1,1]> (sum, w8)
      uc = AveragePool <kernel_shape = [2,2]> (u)
      k = Concat <axis = 1> (uc, c8)
      f = Flatten (k)  y = Gemm (f, w9, b9) }"""


@pytest.fixture(scope="module")
def network() -> Channels:
    channels = Channels(graph_from(NET))
    assert channels.unit_count > 15
    return channels


def evidence(channels: Channels) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    constants = {
        n: t.values.shape for n, t in channels.graph.tensors().items() if isinstance(t, Constant)
    }
    gradients = [{n: rng.standard_normal(s) for n, s in constants.items()} for _ in range(2)]
    data = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}]
    return {"data": data, "gradients": gradients}


@pytest.mark.parametrize("name", IMPORTANCES)
def test_scores_are_finite_and_the_same_again(network: Channels, name: str) -> None:
    first, again = (scores(network, name, **evidence(network)) for _ in range(2))
    assert first.shape == (network.unit_count,)
    assert first.dtype == np.float64
    assert np.isfinite(first).all()
    assert (first == again).all()
    assert len(np.unique(first)) > 3  # bn-gamma knows four units of this network


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_every_way_of_merging(network: Channels, reduce: str, normalize: str) -> None:
    found = scores(network, "l2", merge=reduce, normalize=normalize)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(set(IMPORTANCES) - {"random", "lamp", "group-fisher"}))
def test_a_layers_scale_does_not_matter_when_normalized(name: str) -> None:
    plain, scaled = Channels(graph_from(NET)), Channels(graph_from(NET))
    weight = scaled.graph.tensors()["w8"]
    weight.values = weight.values * np.float32(8)
    both = [scores(c, name, normalize="max", **evidence(c)) for c in (plain, scaled)]
    assert both[0] == pytest.approx(both[1], rel=1e-4)
