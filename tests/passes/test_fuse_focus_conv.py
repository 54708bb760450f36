"""fuse-focus-conv: every order and kernel folds exactly, what cannot fold is refused."""

from __future__ import annotations

import onnx
import pytest
from conftest import run_pass
from test_recompose_space_to_depth import ALL, BOUNDS

from graphopt.frontends.normal_form import normalize

FOCUS = f"{ALL} f = Concat <axis = 1> (a, b, c, d)"
X = "(float[N,3,8,6] x)"

REWRITES = {
    "focus_3x3": f"""{X} => (float[N,5,4,3] y) <{BOUNDS}, float[5,12,3,3] w, float[5] bias>
        {{ {FOCUS} y = Conv <pads = [1,1,1,1], kernel_shape = [3,3]> (f, w, bias) }}""",
    "focus_1x1": f"""{X} => (float[N,5,4,3] y) <{BOUNDS}, float[5,12,1,1] w>
        {{ {FOCUS} y = Conv (f, w) }}""",
    "uneven_pads_and_stride": f"""{X} => (float[N,5,2,3] y) <{BOUNDS}, float[5,12,3,2] w>
        {{ {FOCUS} y = Conv <pads = [1,0,0,1], strides = [2,1]> (f, w) }}""",
    "space_to_depth": """(float[N,3,8,6] x) => (float[N,5,4,3] y) <float[5,12,3,3] w>
        { f = SpaceToDepth <blocksize = 2> (x)
          y = Conv <pads = [1,1,1,1], auto_pad = "NOTSET"> (f, w) }""",
    "space_to_depth_of_three": """(float[1,2,9,W] x) => (float[1,5,2,v] y) <float[5,18,2,1] w>
        { f = SpaceToDepth <blocksize = 3> (x)  y = Conv <auto_pad = "VALID"> (f, w) }""",
}

REFUSALS = {
    "dilated": (
        f"""{X} => (float[N,5,4,3] y) <{BOUNDS}, float[5,12,3,3] w>
        {{ {FOCUS} y = Conv <pads = [2,2,2,2], dilations = [2,2]> (f, w) }}""",
        "dilated",
    ),
    "grouped": (
        f"""{X} => (float[N,12,4,3] y) <{BOUNDS}, float[12,1,1,1] w>
        {{ {FOCUS} y = Conv <group = 12> (f, w) }}""",
        "grouped",
    ),
    "focus_read_twice": (
        f"""{X} => (float[N,5,4,3] y, float[N,12,4,3] z) <{BOUNDS}, float[5,12,1,1] w>
        {{ {FOCUS} y = Conv (f, w)  z = Relu (f) }}""",
        "read elsewhere",
    ),
    "focus_is_an_output": (
        f"""{X} => (float[N,5,4,3] y, float[N,12,4,3] f) <{BOUNDS}, float[5,12,1,1] w>
        {{ {FOCUS} y = Conv (f, w) }}""",
        "read elsewhere",
    ),
    "slice_read_elsewhere": (
        f"""{X} => (float[N,5,4,3] y, float[N,3,4,3] z) <{BOUNDS}, float[5,12,1,1] w>
        {{ {FOCUS} y = Conv (f, w)  z = Relu (a) }}""",
        "read elsewhere",
    ),
    "computed_weight": (
        f"""(float[N,3,8,6] x, float[5,12,1,1] w) => (float[N,5,4,3] y) <{BOUNDS}>
        {{ {FOCUS} y = Conv (f, w) }}""",
        "computed at run time",
    ),
    "automatic_padding": (
        f"""{X} => (float[N,5,4,3] y) <{BOUNDS}, float[5,12,3,3] w>
        {{ {FOCUS} y = Conv <auto_pad = "SAME_UPPER"> (f, w) }}""",
        "padding is automatic",
    ),
}


@pytest.mark.parametrize("case", REWRITES)
def test_fuses(case: str, golden) -> None:
    ran = run_pass("fuse-focus-conv", REWRITES[case])
    assert ran.result.status == "verified"
    assert ran.ops == ["Conv"]
    golden(ran.text)


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    ran = run_pass("fuse-focus-conv", text)
    assert ran.result.status == "unchanged"
    assert any(reason in r for r in ran.reasons), ran.reasons


def test_a_concat_of_something_else_is_no_candidate() -> None:
    ran = run_pass(
        "fuse-focus-conv",
        """(float[1,3,8,6] x) => (float[1,5,8,6] y) <float[5,6,1,1] w>
        { r = Relu (x)  f = Concat <axis = 1> (x, r)  y = Conv (f, w) }""",
    )
    assert not ran.reasons


def test_folds_the_focus_of_a_real_export(assets) -> None:
    ran = run_pass("fuse-focus-conv", normalize(onnx.load(assets / "models" / "yolox_nano.onnx")))
    assert "Slice" not in ran.ops
    assert ran.graph.nodes[0].attrs["kernel_shape"] == [6, 6]
