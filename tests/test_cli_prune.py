"""graphopt prune, graphopt groups and graphopt optimize --prune, as a user would type them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from

from graphopt.cli import main
from graphopt.frontends.onnx_file import save

NET = """(float[N,3,16,16] x) => (float[N,4,16,16] y)
    <float[32,3,3,3] w0, float[32] g, float[32] b, float[32] m, float[32] var, float[32,32,3,3] w1,
     float[32,32,3,3] w2, float[4,32,1,1] w3>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  n = BatchNormalization (a, g, b, m, var)  s = Relu (n)
      c = Conv <pads = [1,1,1,1]> (s, w1)  r = Relu (c)  d = Conv <pads = [1,1,1,1]> (r, w2)
      t = Add (s, d)  y = Conv (t, w3) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(graph_from(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def widths(path: Path) -> list[int]:
    weights = [t for t in onnx.load(path).graph.initializer if len(t.dims) == 4]
    return sorted(t.dims[0] for t in weights)


def test_prunes_and_tells(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("small.onnx")
    assert run("prune", model, "--macs", "0.5", "-o", out, "--no-measure") == 0
    told = capsys.readouterr().out
    assert "pruned == masked within 0.0001" in told
    assert "all of its 4 channels stay: 'y' is an output of the model" in told
    assert told.splitlines()[-1].startswith("PASSED in")
    assert sum(widths(out)) < 3 * 32 + 4


def test_plan_only_writes_no_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = model.with_name("plan.json")
    before = set(model.parent.iterdir())
    assert run("prune", model, "--macs", "50%", "--plan-only", "--save-plan", plan) == 0
    assert set(model.parent.iterdir()) - before == {plan}
    assert json.loads(plan.read_text())["after"]["macs"] > 0
    capsys.readouterr()
    small = model.with_name("small.onnx")
    assert run("prune", model, "--plan", plan, "-o", small, "--no-measure", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["pruning"]["after"] == json.loads(plan.read_text())["after"]
    assert run("prune", small, "--plan", plan, "--no-measure") == 1
    assert "has been applied to this model already" in capsys.readouterr().err
    assert not small.with_name("small.pruned.onnx").exists()


def test_takes_images_and_writes_a_report(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.standard_normal((16, 3, 16, 16)).astype(np.float32))
    folder = tmp_path / "report"
    options = ["--macs", "0.5", "--data", tmp_path / "images.npy", "--importance", "chip"]
    assert run("prune", model, *options, "--report", folder, "--no-measure") == 0
    page = (folder / "report.html").read_text()
    assert "Removal proven" in page
    assert "compensation (refit): 4 layers" in page


def test_optimize_prunes_first(model: Path) -> None:
    out = model.with_name("fast.onnx")
    options = ["--prune", "macs=0.5,multiple=4", "-o", out, "--no-measure"]
    assert run("optimize", model, *options) == 0
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(out).graph.node}
    assert sum(widths(out)) < 3 * 32 + 4


def test_groups_says_who_is_coupled_and_who_is_held(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("groups", model, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    stream, inner = found["groups"]
    assert stream["channels"] == inner["channels"] == 32
    assert {p.split("[")[0] for p in stream["parameters"]} >= {"w0", "g", "w2", "w3"}
    assert any("Add" in name or "t" in name for name in stream["through"])
    (held,) = found["held"]
    assert held["of"] == held["channels"] == 4
    assert run("groups", model) == 0
    assert "64 channels can be removed, in 2 groups" in capsys.readouterr().out


BAD = [
    (["--macs", "0.001"], 4, "macs cannot go below"),
    ([], 2, "pruning needs a budget"),
    (["--macs", "0.5", "--include", "w9*"], 2, "no layer or parameter"),
    (["--macs", "0.5", "--exclude", "*"], 2, "leave nothing that could be removed"),
    (["--macs", "0.5", "--importance", "taylor"], 2, "gradients"),
    (["--macs", "0.5", "--importance", "chip"], 2, "data"),
    (["--macs", "0.5", "--data", "nowhere"], 2, "nowhere"),
    (["--plan", "nowhere.json"], 1, "No such file"),
    (["--macs", "0.5", "--plan-only", "-o", "x.onnx"], 2, "takes no --output"),
]


@pytest.mark.parametrize(("options", "code", "message"), BAD)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    model: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    before = set(model.parent.iterdir())
    assert run("prune", model, *options) == code
    error = capsys.readouterr().err
    assert error.startswith("FAILED: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert set(model.parent.iterdir()) == before


def test_an_empty_folder_and_an_unreadable_image(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    assert run("prune", model, "--macs", "0.5", "--data", folder) == 2
    assert "images" in capsys.readouterr().err
    (folder / "broken.jpg").write_bytes(b"no image")
    assert run("prune", model, "--macs", "0.5", "--data", folder, "--importance", "chip") == 2
    assert "broken.jpg" in capsys.readouterr().err
