"""lower-batchnorm: a product and a sum per channel, or a reason."""

from __future__ import annotations

import pytest
from conftest import run_pass

STATISTICS = "float[4] g, float[4] b, float[4] m, float[4] var_v"

REWRITES = {
    "after_an_activation": f"""(float[N,4,3,3] x) => (float[N,4,3,3] y) <{STATISTICS}>
        {{ r = Relu (x)  y = BatchNormalization <epsilon = 0.01> (r, g, b, m, var_v) }}""",
    "of_vectors": f"""(float[2,4] x) => (float[2,4] y) <{STATISTICS}>
        {{ y = BatchNormalization (x, g, b, m, var_v) }}""",
    "twice_with_one_scale": f"""(float[1,4,3] x) => (float[1,4,3] y) <{STATISTICS}>
        {{ a = BatchNormalization (x, g, b, m, var_v)  y = BatchNormalization (a, g, b, m, var_v) }}""",
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str, golden) -> None:
    ran = run_pass("lower-batchnorm", REWRITES[case])
    assert ran.result.status == "verified"
    assert "BatchNormalization" not in ran.ops
    golden(ran.text)


def test_refuses_statistics_of_the_batch() -> None:
    ran = run_pass(
        "lower-batchnorm",
        """(float[2,4,3] x, float[4] g) => (float[2,4,3] y) <float[4] b, float[4] m, float[4] var_v>
        { y = BatchNormalization (x, g, b, m, var_v) }""",
    )
    assert ran.result.status == "unchanged"
    assert any("run time" in r for r in ran.reasons)
