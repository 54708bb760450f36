"""loosen-clips: a bound that data does not reach goes, one that it reaches stays."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from, run_pass

from graphopt.errors import UsageError
from graphopt.passes.quantize.equalize import Equalize
from graphopt.passes.quantize.loosen_clips import LoosenClips
from graphopt.pipeline import Pipeline

W = "float[8,3,3,3] w, float[4,8,3,3] v, float zero = {0}, float six = {6}"
NETWORK = f"""(float[N,3,8,8] x) => (float[N,4,4,4] y) <{W}>
    {{ a = Conv (x, w)  r = Clip (a, zero, six)  y = Conv (r, v) }}"""
LEFT_ALONE = {
    "another_lower_bound": NETWORK.replace("zero = {0}", "zero = {-1}"),
    "no_upper_bound": NETWORK.replace("Clip (a, zero, six)", "Clip (a, zero)"),
    "computed_bound": """(float[N,4] x, float m) => (float[N,4] y) <float zero = {0}>
        { y = Clip (x, zero, m) }""",
    "integers": """(int32[N,4] x) => (int32[N,4] y) <int32 zero = {0}, int32 six = {6}>
        { y = Clip (x, zero, six) }""",
}


def data(largest: float = 1.0) -> np.ndarray:
    images = np.random.default_rng(0).standard_normal((10, 3, 8, 8)).astype(np.float32)
    return images * np.float32(largest)


def test_a_bound_that_is_not_reached_goes(golden) -> None:
    ran = run_pass("loosen-clips", NETWORK, data=data())
    assert ran.ops == ["Conv", "Relu", "Conv"]
    assert ran.result.detail == "the outputs on the data differ by at most 0"
    golden(ran.text)


def test_a_bound_that_is_reached_stays() -> None:
    ran = run_pass("loosen-clips", NETWORK, data=data(100))
    assert ran.result.status == "unchanged"
    assert "of its values are above its bound 6" in ran.reasons[0]


def test_the_share_that_may_exceed_it_counts() -> None:
    exact = run_pass("loosen-clips", NETWORK, data=data(3), share=0.0)
    assert exact.result.status == "unchanged"
    close = run_pass("loosen-clips", NETWORK, data=data(3), share=0.5)
    assert close.ops == ["Conv", "Relu", "Conv"]
    assert close.result.facts["loosened"]["error"] > 0


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    ran = run_pass("loosen-clips", LEFT_ALONE[case], data=data())
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_scales_pass_where_the_bound_was() -> None:
    graph = graph_from(NETWORK)
    passes = [LoosenClips(data=data()), Equalize()]
    assert Pipeline(passes).run(graph).results[1].rewrites
    assert not Pipeline(passes[1:]).run(graph).results[0].rewrites


def test_needs_data() -> None:
    with pytest.raises(UsageError, match="data=FOLDER"):
        run_pass("loosen-clips", NETWORK)
    with pytest.raises(UsageError, match="no calibration images"):
        run_pass("loosen-clips", NETWORK, data=data()[:0])


def test_a_share_is_a_share() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        run_pass("loosen-clips", NETWORK, data=data(), share=2.0)
