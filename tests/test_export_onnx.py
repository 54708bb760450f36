"""graphopt compile --format onnx: what a board's own reader of ONNX files takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from
from test_bad_input import fails, run

import graphopt
from graphopt.errors import UnsupportedError, UsageError, VerificationError
from graphopt.export_onnx import export_onnx
from graphopt.oracle import error_of
from graphopt.runtime.run import open_file
from graphopt.runtime.targets import target

NET = """(float[N,4,16,16] x) => (float[N,8,16,16] y, float[N,8,16,16] z)
    <float[8,4,3,3] w, float[8] gamma, float[8] beta, float[8] mean, float[8] var>
    { c = Conv <pads = [1,1,1,1]> (x, w)  b = BatchNormalization (c, gamma, beta, mean, var)
      y = HardSwish (b)  z = Mish (b) }"""
UNKNOWN = "(float[1,4] x) => (float[1,4] y) { e = Exp (x)  y = Reciprocal (e) }"
QUANTIZED = """(float[1,4] x) => (float[1,4] y) <float s = {0.1}, int8 z = {0}>
    { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""


@pytest.fixture(name="model")
def a_model(tmp_path: Path) -> Path:
    graphopt.save(graph_from(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_for_tensorrt(model: Path) -> None:
    done = run("compile", model, "--target", "tx2-gpu", "--format", "onnx")
    assert done.returncode == 0, done.stderr
    made = model.with_name("net.tx2-gpu.onnx")
    for word in ("TensorRT 8.2", "opset 13", "float16", "trtexec", f"wrote {made}"):
        assert word in done.stdout
    file = onnx.load(made)
    onnx.checker.check_model(file, full_check=True)
    assert [(o.domain, o.version) for o in file.opset_import] == [("", 13)]
    assert not {n.op_type for n in file.graph.node} & {"HardSwish", "Mish", "BatchNormalization"}
    weights = {i.data_type for i in file.graph.initializer if len(i.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert file.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    x = np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32)
    expected, found = (open_file(p).run({"x": x}) for p in (model, made))
    for name, values in expected.items():
        assert 1e-6 < error_of(values, found[name]) < 1e-2


def test_for_a_board_with_onnx_runtime(model: Path) -> None:
    made = export_onnx(model, model.with_name("out.onnx"), target=target("tx2"))
    assert (made.reader, made.precision) == ("ONNX Runtime", "float32")
    assert made.opset >= 20
    assert made.error < 1e-5
    operators = [n.op_type for n in onnx.load(made.path).graph.node]
    assert sorted(operators) == ["Conv", "HardSwish", "Mish"]


def test_as_json(model: Path) -> None:
    options = (
        "--format",
        "onnx",
        "--precision",
        "float32",
        "--json",
        "-o",
        model.with_name("o.onnx"),
    )
    done = run("compile", model, "--target", "tx2-gpu", *options)
    told = json.loads(done.stdout)
    assert (told["precision"], told["opset"]) == ("float32", 13)
    assert told["bytes"] == model.with_name("o.onnx").stat().st_size


def test_what_is_refused(model: Path, tmp_path: Path) -> None:
    board, out = target("tx2-gpu"), tmp_path / "out.onnx"
    graphopt.save(graph_from(UNKNOWN), tmp_path / "unknown.onnx")
    with pytest.raises(
        UnsupportedError, match="Reciprocal_y.*TensorRT 8.2 does not know Reciprocal"
    ):
        export_onnx(tmp_path / "unknown.onnx", out, target=board)
    graphopt.save(graph_from(QUANTIZED), tmp_path / "quantized.onnx")
    with pytest.raises(UsageError, match="tx2-gpu cannot do int8: sm_62 has no dp4a"):
        export_onnx(tmp_path / "quantized.onnx", out, target=board)
    with pytest.raises(UsageError, match="cannot do int8"):
        export_onnx(model, out, target=board, precision="int8")
    with pytest.raises(UsageError, match="is the model itself"):
        export_onnx(model, model, target=board, replace=True)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force replaces it"):
        export_onnx(model, out, target=board)
    assert out.read_text() == "mine"
    export_onnx(model, out, target=board, replace=True)


def test_a_result_that_differs_is_not_written(model: Path, monkeypatch) -> None:
    monkeypatch.setattr("graphopt.export_onnx._TOLERANCE", {"float16": 1e-9, "float32": 1e-9})
    out = model.with_name("out.onnx")
    with pytest.raises(VerificationError, match="nothing was written"):
        export_onnx(model, out, target=target("tx2-gpu"))
    assert not out.exists()


def test_options_for_code_are_refused(model: Path) -> None:
    there = ("--target", "tx2-gpu", "--format", "onnx", "--abi", "linux-gnu")
    told = fails(model.parent, "compile", model, *there, code=2)
    assert "are for code, not for --format onnx" in told
    told = fails(model.parent, "compile", model, "--target", "tx2", "--format", "elf", code=2)
    assert "is not one of bundle, tvm" in told
