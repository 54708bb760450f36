"""graphopt quantize and optimize --quantize, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import graph_from

from graphopt.cli import main
from graphopt.errors import BudgetError
from graphopt.frontends.onnx_file import load, save
from graphopt.quantize import REPAIRS, AccuracyGate, quantizing
from graphopt.runtime.run import open_graph

NETWORK = """(float[N,3,16,16] x) => (float[N,10] y)
    <float[8,3,3,3] w, float[8] b, float[16,8,3,3] v, float[16] c, float[10,16] u, float[10] d>
    { a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
      e = Conv <pads = [1,1,1,1], strides = [2,2]> (r, v, c)  s = Relu (e)
      p = GlobalAveragePool (s)  f = Flatten (p)  y = Gemm <transB = 1> (f, u, d) }"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, images, and images with labels the model agrees with."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    graph = graph_from(NETWORK)
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    inputs = (pixels.astype(np.float32) / 255).transpose(0, 3, 1, 2)
    # Classes that differ by little, so that what is rounded coarsely is seen.
    bias = graph.nodes[-1].inputs[2]
    bias.values = bias.values - open_graph(graph).run({"x": inputs})["y"].mean(0)
    labels = open_graph(graph).run({"x": inputs})["y"].argmax(1)
    save(graph, tmp_path / "m.onnx")
    np.savez(tmp_path / "labelled.npz", x_test=pixels, y_test=labels)
    return tmp_path


def run(*arguments: Any) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def quantized(here: Path, *more: Any) -> int:
    options = ("--data", here / "images.npy", "-o", here / "q.onnx", "--no-measure")
    return run("quantize", here / "m.onnx", *options, *more)


def test_a_model_becomes_integers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantized(here, "--recipe", "first=true,last=true") == 0
    told = capsys.readouterr().out
    assert "3 of 3 products compute in integers for onnxruntime" in told
    assert "rounded outputs keep y" in told.replace("\n", " ") or "dB" in told
    assert told.splitlines()[-1].startswith("PASSED in")
    kinds = {i.data_type for i in onnx.load(here / "q.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


def test_two_runs_write_the_same_bytes(here: Path) -> None:
    assert quantized(here) == 0
    first = (here / "q.onnx").read_bytes()
    assert quantized(here) == 0
    assert (here / "q.onnx").read_bytes() == first


def test_what_costs_too_much_gets_16_bits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = ("--target", "a57", "--fallback", "int16", "--report", here / "report")
    assert (
        quantized(here, *wide, "--recipe", "floor=45,first=true,last=true,weight=int16,slower=keep")
        == 0
    )
    told = capsys.readouterr().out
    assert "in 16 bits" in told
    assert "3 of 3 products compute in integers for a57" in told
    assert "; in 16 bits" in (here / "report" / "report.html").read_text("utf-8")


def test_the_report_tells_what_was_rounded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantized(here, "--report", here / "report", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantization"]["target"] == "onnxruntime"
    assert found["quantization"]["effects"]
    page = (here / "report" / "report.html").read_text("utf-8")
    assert 'id="quantization"' in page
    assert "left in float" in page


def test_accuracy_is_measured_on_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("--labels", f"npz:{here / 'labelled.npz'}:test", "--task", "classification")
    assert quantized(here, *labels) == 0
    assert "top1 100.00 % → " in capsys.readouterr().out


def test_a_drop_is_kept_within_its_limit_or_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("--labels", f"npz:{here / 'labelled.npz'}:test", "--task", "classification")
    coarse = ("--recipe", "percentile=51,floor=0,first=true,last=true", "--method", "percentile")
    assert quantized(here, *labels, *coarse) == 0
    assert "top1 100.00 % → 100.00 %" not in capsys.readouterr().out
    assert quantized(here, *labels, *coarse, "--max-drop", 0) == 0
    assert "top1 100.00 % → 100.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--max-drop", 0.5), 2, "give --labels"),
        (("--labels", "npz:x.npz"), 2, "--task detection or --task classification"),
        (("--method", "entropi"), 2, "did you mean entropy"),
        (("--repair", "equalise"), 2, "did you mean equalize"),
        (("--target", "a75"), 2, "did you mean a76"),
        (("--keep", "Konv"), 2, "did you mean Conv"),
        (("--fallback", "int16"), 2, "onnxruntime has no kernels for uint16 activations"),
        (("--fallback", "int8"), 2, "did you mean int16"),
        (("--recipe", "nonsense=1"), 2, "no option 'nonsense'"),
        (("--decoder", "os:getcwd"), 2, "functions of your own are taken from Python only"),
    ],
)
def test_wrong_wishes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: Any, code: int, told: str
) -> None:
    assert quantized(here, *arguments) == code
    assert told in capsys.readouterr().err
    assert not (here / "q.onnx").exists()


def test_a_quantized_model_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantized(here) == 0
    options = ("--data", here / "images.npy", "-o", here / "again.onnx")
    assert run("quantize", here / "q.onnx", *options) == 1
    assert "quantized already" in capsys.readouterr().err
    assert not (here / "again.onnx").exists()


def test_optimize_quantizes_last(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", here / "images.npy", "-o", here / "o.onnx", "--no-measure")
    wanted = ("--quantize", "int8,repair=none,first=true")
    assert run("optimize", here / "m.onnx", *options, *wanted) == 0
    assert "products compute in integers" in capsys.readouterr().out
    assert run("optimize", here / "m.onnx", "--quantize", "int8") == 2
    assert "--data FOLDER" in capsys.readouterr().err
    assert run("optimize", here / "m.onnx", *options, "--quantize", "first=true") == 2
    assert "int8,first=true" in capsys.readouterr().err


def test_a_result_that_loses_more_than_allowed_is_not_accepted(here: Path) -> None:
    graph = load(here / "m.onnx")
    weight = graph.nodes[-1].inputs[1]
    weight.values = weight.values[::-1].copy()
    gate = AccuracyGate(
        here / "m.onnx", f"npz:{here / 'labelled.npz'}:test", "classification", max_drop=1.0
    )
    assert gate.accept(load(here / "m.onnx")).lost == 0
    with pytest.raises(BudgetError, match=r"top1 falls by .* and 1 are allowed; nothing written"):
        gate.accept(graph)


def test_training_through_the_rounding(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantized(here, "--qat", "epochs=1,batch=8,workers=0", "--recipe", "first=true") == 0
    told = capsys.readouterr().out
    assert "trained for" in told
    assert "qat" in told
    kinds = {i.data_type for i in onnx.load(here / "q.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert quantized(here, "--qat", "epochz=1") == 2


def test_help_names_every_repair(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quantize", "--help") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in REPAIRS)


def test_repairs_look_at_as_many_images_as_calibration() -> None:
    passes = quantizing("images/", repair="adaround|bias", qat="epochs=1", images=7)
    assert [getattr(p, "images", None) for p in passes] == [7, 7, 7, None, None]
