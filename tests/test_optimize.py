"""The main job as a function: what it notes, what it measures, what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

import graphopt
from graphopt.errors import VerificationError
from graphopt.ir.graph import add_constant, set_input
from graphopt.optimize import integer_notes, optimize_file, share_notes, weight_notes
from graphopt.runtime.measure import Latency

MISH = """(float[1,8,64,64] x) => (float[1,8,64,64] y) <float[8,8,1,1] w>
    { c = Conv (x, w)  s = Softplus (c)  t = Tanh (s)  m = Mul (c, t)
      s2 = Softplus (m)  t2 = Tanh (s2)  y = Mul (m, t2) }"""


def test_an_activation_no_runtime_fuses_is_noted_with_its_measured_share(tmp_path: Path) -> None:
    graphopt.save(graph_from(MISH), tmp_path / "m.onnx")
    run = optimize_file(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert [layer.op for layer in run.after.layers] == ["Conv", "Mish", "Mish"]
    assert sum(run.operator_shares.values()) == pytest.approx(1)
    share = sum(run.operator_shares[op] for op in ("Softplus", "Tanh"))
    # How large it is depends on what else the machine does; whether it is told must not.
    notes = [n for n in run.notes if n.startswith(f"Mish takes {share:.0%} of the running time")]
    assert len(notes) == (share >= 0.15)


def test_small_shares_and_fused_activations_are_not_noted() -> None:
    assert share_notes({"Conv": 0.9, "Softplus": 0.1}, {"Conv", "Mish"}) == []
    assert share_notes({"Conv": 0.4, "Softplus": 0.6}, {"Conv", "Softplus"}) == []
    assert share_notes({"Softplus": 0.3, "Tanh": 0.1}, {"Mish"})[0].startswith("Mish takes 40%")


def test_nan_weights_are_noted_and_the_bounds_of_a_clip_are_not() -> None:
    graph = graph_from(
        """(float[1,4] x) => (float[1,4] y) <float low = {0.0}, float high = {inf}, float[4] w>
        { c = Clip (x, low, high)  y = Mul (c, w) }"""
    )
    assert weight_notes(graph) == []
    mul = graph.nodes[1]
    set_input(mul, 1, add_constant(graph, "w", np.full(4, np.nan, np.float32)))
    assert "NaN or infinite values: w" in weight_notes(graph)[0]


def test_the_report_never_claims_a_latency_that_was_not_measured(tmp_path: Path) -> None:
    graphopt.save(graph_from(MISH), tmp_path / "m.onnx")
    run = optimize_file(tmp_path / "m.onnx", tmp_path / "o.onnx", measure=False)
    assert run.latency is None
    assert run.operator_shares == {}


def test_replacing_the_input_says_why_there_is_no_latency(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graphopt.save(graph_from(MISH), path)
    run = optimize_file(path, path)
    assert run.latency is None
    assert any("the input was replaced" in n for n in run.notes)


def test_a_model_that_cannot_run_is_left_alone(tmp_path: Path) -> None:
    graph = graph_from("(float[1,4] x) => (float[1,4] y) { y = Relu (x) }")
    graph.nodes[0].domain, graph.nodes[0].op = "my.ops", "Strange"
    graphopt.save(graph, tmp_path / "m.onnx", runnable=False)
    with pytest.raises(VerificationError, match="left alone, nothing can be proven"):
        optimize_file(tmp_path / "m.onnx", tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_quantized_model_that_is_not_faster_gets_a_note() -> None:
    slower, faster = Latency(10.0, 12.0, 1.2, 5, 1), Latency(10.0, 5.0, 0.5, 5, 1)
    shares = {"QLinearMul": 0.4, "QLinearConv": 0.5, "Conv": 0.1}
    (note,) = integer_notes(slower, shares, {"DequantizeLinear", "Conv"})
    assert "1.20 times" in note
    assert "QLinearConv 50%, QLinearMul 40%" in note
    assert not integer_notes(faster, shares, {"DequantizeLinear"})
    assert not integer_notes(slower, shares, {"Conv"})
    assert not integer_notes(None, {}, {"DequantizeLinear"})
