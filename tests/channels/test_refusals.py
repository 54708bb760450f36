"""What cannot be removed is said in words, and silently wrong results stay away."""

from __future__ import annotations

import numpy as np
import pytest
from checking import TOLERANCE, check
from conftest import graph_from

from graphopt.channels.groups import Channels

# Text of a graph whose layer "Conv_a" has to keep its channels, and a part of the reason.
_CONV = "(float[2,3,4,4] x) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v{}> {{ a = Conv(x, w) {} }}"
REFUSED = {
    "an output": ("(float[2,3,4,4] x) => (float[2,8,4,4] a) <float[8,3,1,1] w> { a = Conv(x, w) }", "'a' is an output of the model"),
    "softmax": (_CONV.format("", "s = Softmax<axis = 1>(a) y = Conv(s, v)"), "Softmax takes statistics over these channels"),
    "mean over channels": (_CONV.format(", int64[1] k = {1}", "m = ReduceMean(a, k) s = Sub(a, m) y = Conv(s, v)"), "ReduceMean reduces over these channels"),
    "maximum over channels": (_CONV.format(", int64[1] k = {-3}", "m = ReduceMax(a, k) s = Sub(a, m) y = Conv(s, v)"), "ReduceMax reduces over these channels"),
    "with the image": ("(float[2,3,4,4] x, float[2,8,4,4] z) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v> { a = Conv(x, w) s = Add(a, z) y = Conv(s, v) }", "is combined with a tensor that keeps its size"),
    "its size counts": ("(float[2,3,4,4] x) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v, int64 one = {1}> { a = Conv(x, w) s = Shape(a) g = Gather(s, one) f = Cast<to = 1>(g) q = Sqrt(f) d = Div(a, q) y = Conv(d, v) }", "Shape tells the size of this axis"),
    "unknown operator": (_CONV.format(", int64[1,1] at = {1}, float[1,8,4,4] new", "s = ScatterND(a, at, new) y = Conv(s, v)"), "is an operator without a rule (ScatterND)"),
    "sort": (_CONV.format(", int64[1] k = {8}", "s, i = TopK<axis = 1>(a, k) y = Conv(s, v)"), "TopK needs everything along these channels"),
    "reflecting pad": (_CONV.format(", int64[8] p = {0, 1, 0, 0, 0, -1, 0, 0}", 's = Pad<mode = "reflect">(a, p) y = Conv(s, v)'), "Pad pads it with copies of other channels"),
    "index at run time": ("(float[2,3,4,4] x, int64[8] i) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v> { a = Conv(x, w) s = Gather<axis = 1>(a, i) y = Conv(s, v) }", "Gather picks elements by numbers it computes"),
    "one group of statistics": (_CONV.format(", float[8] b, float[8] var", "t = Transpose<perm = [0, 2, 3, 1]>(a) n = LayerNormalization(t, var, b) s = Transpose<perm = [0, 3, 1, 2]>(n) y = Conv(s, v)"), "LayerNormalization takes statistics over these channels"),
    "subgraph": ("(float[2,3,4,4] x, bool c) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v> { a = Conv(x, w) s = If (c) <then_branch = t () => (float[2,8,4,4] p) { p = Relu(a) }, else_branch = e () => (float[2,8,4,4] q) { q = Neg(a) }> y = Conv(s, v) }", "is read inside a subgraph"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str) -> None:
    text, reason = REFUSED[name]
    channels = Channels(graph_from(text))
    held = {h.layer: h for h in channels.held()}
    assert reason in held["Conv_a"].reason.what
    assert len(held["Conv_a"].channels) == held["Conv_a"].of == 8
    assert not channels.groups


# Text of a graph of which something can be removed, in ways that are easily got wrong.
EXACT = {
    # The first of two sizes is copied from another axis than the one that loses elements.
    "zero in a reshape target": "(float[3,4] x) => (float[3,5] y) <float[4,8] w, float[4,5] v, int64[3] s = {0, 4, 2}, int64[1] k = {2}> { a = MatMul(x, w) r = Reshape(a, s) m = ReduceSum<keepdims = 0>(r, k) y = MatMul(m, v) }",
    "slices of two axes that turn into gathers": "(float[2,3,8] x) => (float[2,4,5] y) <float[8,12] w, float[3,8] u, float[5,6] v, float[4,4] t, int64[2] b = {0, 0}, int64[2] e = {8, 12}, int64[2] k = {1, 2}, int64[2] p = {2, 2}> { a = MatMul(u0, xw) y = MatMul(z, v0) xw = MatMul(x, w) u0 = Transpose(u) s = Slice(a, b, e, k, p) z = MatMul(t, s) v0 = Transpose(v) }",
    "squeeze without axes": "(float[2,3,1,1] x) => (float[2,5] y) <float[4,3,1,1] w, float[4,5] v> { a = Conv(x, w) s = Squeeze(a) y = MatMul(s, v) }",
    "index channel by channel": "(float[2,3,4,4] x) => (float[2,5,4,4] y) <float[8,3,1,1] w, float[3] table, float[5,8,1,1] v, float low = {0}, float high = {2}> { a = Conv(x, w) c = Clip(a, low, high) i = Cast<to = 7>(c) g = Gather(table, i) y = Conv(g, v) }",
    "mean of statistics given out": "(float[2,8] x) => (float[2,3] y) <float[8,6] w, float[6] s, float[6,3] v> { a = MatMul(x, w) n = LayerNormalization(a, s) y = MatMul(n, v) }",
    "dropout's mask": "(float[2,8] x) => (float[2,3] y) <float[8,6] w, float[6,3] v> { a = MatMul(x, w) d, m = Dropout(a) f = Cast<to = 1>(m) p = Mul(a, f) y = MatMul(p, v) }",
    "logarithm of what is removed": "(float[2,8] x) => (float[2,3] y) <float[8,6] w, float[6,3] v> { a = MatMul(x, w) e = Exp(a) l = Log(e) y = MatMul(l, v) }",
    "weight in two roles": "(float[2,8] x) => (float[2,3] y) <float[8,8] w, float[8,3] v> { a = MatMul(x, w) b = MatMul(a, w) c = Mul(w, w) d = MatMul(b, c) y = MatMul(d, v) }",
    "resize that keeps everything": "(float[2,3,4,4] x) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[4,8,1,1] v, int64[4] s = {2, 8, 4, 4}> { a = Conv(x, w) r = Resize(a, , , s) y = Conv(r, v) }",
    "batch of a computed expand": "(float[N,3,4,4] x) => (float[N,4,4,4] y) <float[8,3,1,1] w, float[1,8,1,1] g, float[4,8,1,1] v, int64 zero = {0}, int64[1] first = {0}, int64[3] rest = {8, 1, 1}> { a = Conv(x, w) s = Shape(x) n = Gather(s, zero) m = Unsqueeze(n, first) t = Concat<axis = 0>(m, rest) e = Expand(g, t) b = Mul(a, e) y = Conv(b, v) }",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", EXACT)
def test_exact_where_it_is_easily_wrong(name: str, seed: int) -> None:
    graph = graph_from(EXACT[name])
    outcome = check(graph, 0.6, seed=seed)
    assert outcome.error <= TOLERANCE
    assert outcome.removed or name in ("mean of statistics given out", "weight in two roles")


def test_a_shape_that_is_given_out_holds_its_axes() -> None:
    text = "(float[2,3,4,4] x) => (float[2,4,4,4] y, int64[4] s) <float[8,3,1,1] w, float[4,8,1,1] v, int64 one = {0}> { a = Conv(x, w) s = Shape(a) n = Gather(s, one) y = Conv(a, v) }"
    assert not Channels(graph_from(text)).groups


def test_couplings_name_the_node() -> None:
    text = "(float[2,3,4,4] x) => (float[2,4,4,4] y) <float[8,3,1,1] w, float[8,3,1,1] u, float[4,8,1,1] v> { a = Conv(x, w) b = Conv(x, u) s = Add(a, b) y = Conv(s, v) }"
    channels = Channels(graph_from(text))
    assert [g.size for g in channels.groups] == [8]
    assert "Add_s" in channels.couplings()[0]
    assert {(m.name, m.axis) for m in channels.members} == {("w", 0), ("u", 0), ("v", 1)}


def test_nothing_removed_changes_nothing() -> None:
    graph = graph_from(EXACT["squeeze without axes"])
    assert check(graph, 0.0).removed == 0
    assert np.isclose(check(graph, 0.0).error, 0)
