"""Activations behind the pools that round: the same bits, and ONNX Runtime's pool stays in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import Ran, graph_from, run_pass

from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.placement import Placement
from graphopt.passes.quantize.pool_first import pool_first
from graphopt.runtime.run import open_graph

W = "float[8,3,3,3] w, float[8,8,3,3] v, float[8,8,3,3] u, float zero = {0}, float six = {6}"
POOL = "MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>"
NETWORK = f"""(float[N,3,16,16] x) => (float[N,8,2,2] y) <{W}> {{
    a = Conv (x, w)  r = Relu (a)  p = {POOL} (r)
    b = Conv (p, v)  s = Relu (b)  c = Conv <pads=[1,1,1,1]> (s, u)  t = Relu (c)
    y = Conv <strides=[2,2]> (t, v)
}}"""
RISING = ["Relu (a)", "Clip (a, zero, six)", "LeakyRelu <alpha=0.1> (a)", "Sigmoid (a)", "Tanh (a)"]
LEFT_ALONE = {
    "falls": ("Relu (a)", "LeakyRelu <alpha=-0.1> (a)"),
    "falls_and_rises": ("Relu (a)", "Mish (a)"),
    "rounds_its_size_up": ("pads=[1,1,1,1]> (r)", "pads=[1,1,1,1], ceil_mode=1> (r)"),
    "read_elsewhere": (
        "y = Conv <strides=[2,2]> (t, v)",
        "z = Conv (t, v)  g = ReduceSum (r)  y = Add (z, g)",
    ),
}


def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)


def swapped(text: str, carried: str = "p") -> tuple[Graph, Graph, list[str]]:
    before, after = graph_from(text), graph_from(text)
    moved = pool_first(after, Placement(carried={carried: 0}))
    return before, after, [n.op for n in moved]


@pytest.mark.parametrize("activation", RISING)
def test_the_same_bits(activation: str) -> None:
    before, after, moved = swapped(NETWORK.replace("Relu (a)", activation))
    assert moved == [activation.split()[0]]
    ops = [n.op for n in after.nodes]
    assert ops[:3] == ["Conv", "MaxPool", moved[0]]
    assert after.nodes[2].outputs[0].name == "p"
    feeds = {"x": data()}
    wanted, found = (open_graph(g).run(feeds)["y"] for g in (before, after))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_leaves_alone(case: str) -> None:
    old, new = LEFT_ALONE[case]
    assert old in NETWORK
    _, after, moved = swapped(NETWORK.replace(old, new))
    assert not moved
    assert [n.op for n in after.nodes][1:3] != ["MaxPool", "Relu"]


def test_what_is_not_rounded_or_rounded_before_is_left_alone() -> None:
    assert not swapped(NETWORK, carried="s")[2]
    graph = graph_from(NETWORK)
    assert not pool_first(graph, Placement(carried={"p": 0, "r": 0}))


def quantized(target: str) -> Ran:
    ran = run_pass("insert-fake-quant", NETWORK, data=data(), target=target, floor=0.0)
    return run_pass("quantize-constants", ran.graph)


@pytest.mark.parametrize("swap", [True, False])
def test_onnx_runtimes_pool_stays_in_float(
    swap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without the swap it does not, which is what the swap is for."""
    if not swap:
        monkeypatch.setattr("graphopt.passes.quantize.insert_fake_quant.pool_first", lambda *_: ())
    save(quantized("onnxruntime").graph, tmp_path / "q.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    ort.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "o.onnx").graph.node
    pool = next(n for n in nodes if n.op_type == "MaxPool")
    before = next(n.op_type for n in nodes if pool.input[0] in n.output)
    assert before == ("Conv" if swap else "QuantizeLinear")


def test_our_own_compilers_pool_does_not_matter() -> None:
    ops = [n.op for n in quantized("a57").graph.nodes]
    assert ops[ops.index("MaxPool") - 1] == "Relu"
