"""The table of ONNX Runtime's integer kernels, read off the version that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import graph_from, run_pass

from graphopt.ir.proto import to_proto
from graphopt.passes.quantize.rules import RULES

BLOCKS = {
    "Conv": "b = Conv (a, v)",
    "Relu": "b = Conv (a, v)  c = Relu (b)",
    "Clip": "b = Conv (a, v)  c = Clip (b, lo, hi)",
    "LeakyRelu": "c = LeakyRelu (a)",
    "Sigmoid": "s = Sigmoid (a)  c = Mul (a, s)",
    "Add": "b = Conv (a, v)  c = Add (a, b)",
    "Mul": "b = Conv (a, v)  c = Mul (a, b)",
    "Concat": "b = Conv (a, v)  d = Concat <axis = 1> (a, b)  c = Conv (d, t)",
    "MaxPool": "c = MaxPool <kernel_shape = [2, 2]> (a)",
    "AveragePool": "c = AveragePool <kernel_shape = [2, 2]> (a)",
    "GlobalAveragePool": "c = GlobalAveragePool (a)",
    "Resize": 'c = Resize <mode = "nearest"> (a, "", k)',
    "Slice": "c = Slice (a, i0, i4, i2)",
    "Transpose": "c = Transpose <perm = [0, 1, 3, 2]> (a)",
    "DepthToSpace": "d = DepthToSpace <blocksize = 2> (a)  c = Conv (d, e)",
}


@pytest.mark.parametrize("op", BLOCKS)
def test_what_is_quantized_is_computed_in_integers(op: str, tmp_path: Path) -> None:
    """Between the first Quantize and the last Dequantize nothing is left in float."""
    block = BLOCKS[op] if " c = " in f" {BLOCKS[op]}" else f"{BLOCKS[op]}  c = Identity (b)"
    text = f"""(float[2,8,8,8] x) => (float[2,8,h,w_] y)
        <float[8,8,3,3] w, float[8,8,1,1] v, float[8,16,1,1] t, float[8,2,1,1] e, float[8,8,1,1] u,
         float lo = {{0}}, float hi = {{6}}, float[4] k = {{1, 1, 2, 2}}, int64[1] i0 = {{0}},
         int64[1] i4 = {{4}}, int64[1] i2 = {{2}}>
        {{ a = Conv (x, w)  {block}  y = Conv (c, u) }}"""
    data = [np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)]
    made = run_pass(
        "insert-fake-quant",
        graph_from(text),
        data=data,
        first=True,
        last=True,
        floor=0,
        cache=False,
    ).graph
    found = _optimized(run_pass("quantize-constants", made).graph, tmp_path / "o.onnx")
    assert found.count("QuantizeLinear") == 1, found
    assert found.count("DequantizeLinear") == 1, found


@pytest.mark.parametrize(("activation", "fused"), [("uint8", True), ("uint16", False)])
def test_16_bits_have_no_kernels_in_onnx_runtime(
    activation: str, fused: bool, tmp_path: Path
) -> None:
    """Which is why `fallback=int16` is refused for it."""
    text = """(float[2,8,8,8] x) => (float[2,8,8,8] y) <float[8,8,1,1] w, float[8,8,1,1] v>
        { a = Conv (x, w)  b = Conv (a, v)  c = Add (a, b)  y = Conv (c, w) }"""
    data = [np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)]
    options = {"first": True, "last": True, "floor": 0, "cache": False, "activation": activation}
    made = run_pass("insert-fake-quant", graph_from(text), data=data, **options).graph
    found = _optimized(run_pass("quantize-constants", made).graph, tmp_path / "o.onnx")
    assert ("QLinearConv" in found, "QLinearAdd" in found) == (fused, fused)
    assert ("Conv" in found) is not fused
    assert not RULES["onnxruntime"].wide


def _optimized(graph: object, path: Path) -> list[str]:
    model, arrays = to_proto(graph, hollow=True)  # type: ignore[arg-type]
    assert not arrays
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(path).graph.node]
