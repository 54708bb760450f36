"""explicit-padding: numbers for auto_pad, the ones ONNX Runtime takes, and none where it is not known."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import graph_from, run_pass
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import RunError
from graphopt.oracle import Oracle
from graphopt.pass_base import Context
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes, pass_class
from graphopt.runtime.lower.layout import window_of

WRITTEN: dict[str, tuple[str, list[int]]] = {
    "odd_upper": (
        """(float[N,3,8,9] x) => (float[N,4,4,5] y) <float[4,3,3,3] w>
        { y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w) }""",
        [0, 1, 1, 1],
    ),
    "odd_lower": (
        """(float[N,3,8,9] x) => (float[N,4,4,5] y) <float[4,3,3,3] w>
        { y = Conv <auto_pad = "SAME_LOWER", strides = [2,2]> (x, w) }""",
        [1, 1, 0, 1],
    ),
    "valid": (
        """(float[N,3,8,9] x) => (float[N,4,3,4] y) <float[4,3,3,3] w>
        { y = Conv <auto_pad = "VALID", strides = [2,2], kernel_shape = [3,3]> (x, w) }""",
        [0, 0, 0, 0],
    ),
    "sizes_unknown_but_steps_of_one": (
        """(float[N,3,H,W] x) => (float[N,4,H,W] y) <float[4,3,3,5] w>
        { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }""",
        [1, 2, 1, 2],
    ),
    "pool_rounding_up": (
        """(float[1,3,7,7] x) => (float[1,3,4,4] y)
        { y = MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (x) }""",
        [0, 0, 1, 1],
    ),
    "mean_of_what_is_there": (
        """(float[1,3,7,7] x) => (float[1,3,4,4] y)
        { y = AveragePool <auto_pad = "SAME_LOWER", kernel_shape = [3,2], strides = [2,2]> (x) }""",
        [1, 1, 1, 0],
    ),
    "steps_wider_than_the_window": (
        """(float[1,3,6,8] x) => (float[1,4,3,3] y) <float[4,3,1,1] w>
        { y = Conv <auto_pad = "SAME_UPPER", strides = [2,3]> (x, w) }""",
        [0, 0, 0, 0],
    ),
    "transposed_to_a_size": (
        """(float[1,4,5,6] x) => (float[1,3,10,11] y) <float[4,3,3,3] w>
        { y = ConvTranspose <strides = [2,2], output_shape = [10,11]> (x, w) }""",
        [1, 1, 0, 1],
    ),
}

REFUSALS = {
    "larger_than_there_is": (
        """(float[1,4,5,6] x) => (float[1,3,14,13] y) <float[4,3,3,3] w>
        { y = ConvTranspose <strides = [2,2], output_shape = [14,13]> (x, w) }""",
        "larger than what it makes",
    ),
    "values_unread_by_a_convolution": (
        """(float[1,3,8,8] x) => (float[1,4,2,2] y) <float[4,3,1,1] w>
        { y = Conv <auto_pad = "SAME_UPPER", strides = [4,4]> (x, w) }""",
        "less padding than none",
    ),
    "values_unread": (
        """(float[1,3,7,7] x) => (float[1,3,2,2] y)
        { y = MaxPool <auto_pad = "SAME_UPPER", kernel_shape = [1,1], strides = [4,4]> (x) }""",
        "less padding than none",
    ),
    "size_unknown": (
        """(float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[4,3,3,3] w>
        { y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w) }""",
        "which is not known",
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_writes_what_is_meant(case: str) -> None:
    text, pads = WRITTEN[case]
    ran = run_pass("explicit-padding", text)
    (node,) = ran.graph.nodes
    assert ran.result.status == "verified"
    assert node.attrs["pads"] == pads
    assert "auto_pad" not in node.attrs


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    text, reason = REFUSALS[case]
    context = Context()
    # Without the oracle: ONNX Runtime does not run all of these.
    pass_class("explicit-padding")().run(graph_from(text), context)
    assert not context.rewrites
    assert reason in context.refusals[0].what


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_transposed_convolutions_too(data: st.DataObject) -> None:
    def two(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(2)]

    kernel, strides, size, dilations = two(1, 4), two(1, 4), two(2, 5), two(1, 2)
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    how: dict[str, Any] = {"strides": strides, "dilations": dilations, "output_padding": extra}
    how["auto_pad"] = f'"{data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}"'
    if data.draw(st.booleans()):
        full = [
            s * (n - 1) + e + (k - 1) * d + 1
            for s, n, e, k, d in zip(strides, size, extra, kernel, dilations, strict=True)
        ]
        how["output_shape"] = [data.draw(st.integers(max(1, f - 3), f)) for f in full]
        if data.draw(st.booleans()):
            del how["auto_pad"]
    attributes = ", ".join(f"{k} = {v}" for k, v in how.items())
    graph = graph_from(
        f"(float[1,3,{size[0]},{size[1]}] x) => (float[1,2,P,Q] y) "
        f"<float[3,2,{kernel[0]},{kernel[1]}] w> {{ y = ConvTranspose <{attributes}> (x, w) }}"
    )
    try:
        oracle = Oracle(graph)
    except RunError:
        return  # ONNX Runtime does not run it
    outcome = Pipeline([pass_class("explicit-padding")()]).run(graph, oracle=oracle, strict=True)
    assert outcome.results[0].status == "verified"
    assert not {"auto_pad", "output_shape"} & set(outcome.graph.nodes[0].attrs)


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_is_what_onnx_runtime_does(op: str, data: st.DataObject) -> None:
    def two(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(2)]

    kernel, strides, size = two(1, 4), two(1, 4), two(6, 11)
    how: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    how["auto_pad"] = f'"{data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}"'
    # ONNX Runtime runs no pool that leaves values unread with SAME, and begins convolutions anywhere.
    unread = 0 if op != "Conv" else 2
    strides[:] = [min(s, k + unread) for s, k in zip(strides, kernel, strict=True)]
    if op == "AveragePool":
        how["count_include_pad"] = data.draw(st.integers(0, 1))
    attributes = ", ".join(f"{k} = {v}" for k, v in how.items())
    weights = f"<float[4,3,{kernel[0]},{kernel[1]}] w>" if op == "Conv" else ""
    graph = graph_from(
        f"(float[1,3,{size[0]},{size[1]}] x) => (float[1,C,P,Q] y) {weights}"
        f"{{ y = {op} <{attributes}> (x{', w' if op == 'Conv' else ''}) }}"
    )
    outcome = Pipeline([pass_class("explicit-padding")()]).run(
        graph, oracle=Oracle(graph), strict=True
    )
    assert outcome.results[0].status == "verified"
    assert "auto_pad" not in outcome.graph.nodes[0].attrs


def test_what_chose_its_padding_has_kernels_of_ours() -> None:
    graph = graph_from("""(float[1,3,8,8] x) => (float[1,4,4,4] y) <float[4,3,3,3] w>
        { y = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (x, w) }""")
    (before,) = graph.nodes
    assert window_of(before) is None
    (conv,) = Pipeline(default_passes()).run(graph).graph.nodes
    assert window_of(conv) is not None
