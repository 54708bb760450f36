"""graphopt distill, and graphopt optimize --prune --recover."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from PIL import Image

import graphopt
from graphopt.cli import main

NETWORK = """(float[1,3,8,8] x) => (float[1,6] y)
    <float[16,3,3,3] w1, float[16] g1, float[16] b1, float[16] m1, float[16] var1,
     float[16,16,3,3] w2, float[16] g2, float[16] b2, float[16] m2, float[16] var2, float[6,16] f>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1)  n1 = BatchNormalization (c1, g1, b1, m1, var1)  r1 = Relu (n1)
      c2 = Conv <pads = [1,1,1,1], strides = [2,2]> (r1, w2)
      n2 = BatchNormalization (c2, g2, b2, m2, var2)  r2 = Relu (n2)
      p = GlobalAveragePool (r2)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A student, a teacher, and a folder of images."""
    for name, seed in (("student", 0), ("teacher", 1)):
        graphopt.save(graph_from(NETWORK, seed=seed), tmp_path / f"{name}.onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for k in range(24):
        pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
    return tmp_path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    return int(done.value.code or 0)


RECIPE = "batch=8,lr=0.05,workers=0"


def distill(files: Path, *more: object) -> int:
    return run(
        "distill", files / "student.onnx", "--teacher", files / "teacher.onnx", "--data",
        files / "images", "--recipe", RECIPE, "--device", "cpu", "--no-measure", *more,
    )  # fmt: skip


def test_distills(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(files, "--epochs", 3, "--preprocess", "cifar", "--report", files / "report") == 0
    printed = capsys.readouterr()
    assert "kl y" in printed.out
    assert "wrote" in printed.out
    assert "PASSED in" in printed.out.splitlines()[-1]
    assert printed.err.count("epoch ") == 3
    made = graphopt.load(files / "student.distilled.onnx")
    assert made.metadata["graphopt.preprocess"] == "cifar"
    content = json.loads((files / "report" / "report.json").read_text())
    rows = content["training"]["rows"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["kl y"] < rows[0]["kl y"]
    assert "kl y" in (files / "report" / "report.html").read_text()


def test_same_seed_same_bytes(files: Path) -> None:
    for name in ("a", "b"):
        assert distill(files, "--epochs", 1, "-o", files / f"{name}.onnx") == 0
    assert (files / "a.onnx").read_bytes() == (files / "b.onnx").read_bytes()


def test_prunes_and_recovers_in_one_go(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        "optimize", files / "teacher.onnx", "-o", files / "small.onnx", "--data", files / "images",
        "--prune", "channels=0.5,multiple=1", "--recover", f"epochs=2,{RECIPE},device=cpu",
        "--no-measure", "--folder", files / "run", "--report", files / "report",
    )  # fmt: skip
    settings = json.loads((files / "report" / "report.json").read_text())["pruning"]["settings"]
    assert (settings["allocation"], settings["compensation"]) == ("uniform", "linear")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert (files / "run" / "checkpoint.pt").exists()
    made = graphopt.load(files / "small.onnx")
    assert (
        graphopt.cost_of(made).parameters < 0.6 * graphopt.cost_of(graph_from(NETWORK)).parameters
    )
    assert "BatchNormalization" not in [n.op for n in made.nodes]
    assert "recover" in printed.out


def test_prunes_and_recovers_in_rounds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(6):  # six classes of one image each
        folder = files / "labelled" / str(k)
        folder.mkdir(parents=True)
        (folder / "one.png").write_bytes((files / "images" / f"{k}.png").read_bytes())
    code = run(
        "optimize", files / "teacher.onnx", "-o", files / "small.onnx", "--data", files / "images",
        "--prune", "channels=0.5,multiple=1", "--recover", f"epochs=1,{RECIPE},device=cpu",
        "--rounds", 2, "--max-drop", 100, "--labels", f"imagefolder:{files / 'labelled'}",
        "--preprocess", "cifar", "--no-measure", "--folder", files / "run",
        "--report", files / "report",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    pruning = json.loads((files / "report" / "report.json").read_text())["pruning"]
    assert (pruning["settings"]["channels"], len(pruning["rounds"])) == ("0.5", 2)
    assert all(f"round {k}: " in printed.out for k in (1, 2))
    assert [done.partition(":")[0] for done in pruning["done"]] == ["round 1", "round 2"]
    assert "points lost" in printed.out
    assert sorted(p.name for p in (files / "run").iterdir()) == ["round1", "round2"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recover", "epochs=1"], 2, "--recover makes up for --prune"),
        (["--prune", "macs=0.5", "--recover", "epochs=1"], 2, "give --data FOLDER"),
        (
            ["--prune", "macs=0.5", "--data", "images", "--recover", "epoch=1"],
            2,
            "did you mean epochs",
        ),
        (["--prune", "macs=0.5", "--data", "empty", "--recover", "epochs=1"], 2, "no image in it"),
        (["--prune", "macs=0.5", "--rounds", "2"], 2, "are for --prune with --recover"),
        (
            ["--prune", "macs=0.5", "--recover", "epochs=1", "--data", "images", "--max-drop", "1"],
            2,
            "--max-drop is measured on --labels",
        ),
        (["--data", "images"], 2, "--data is for --prune, --recover and --quantize"),
    ],
)
def test_what_cannot_be_meant(
    files: Path, monkeypatch, capsys, arguments: list[str], code: int, message: str
) -> None:
    (files / "empty").mkdir()
    monkeypatch.chdir(files)
    assert run("optimize", "teacher.onnx", *arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not (files / "teacher.opt.onnx").exists()


def test_a_damaged_image_is_named_or_skipped(files: Path, capsys) -> None:
    (files / "images" / "13.png").write_bytes(b"no image")
    assert distill(files, "--epochs", 1) == 2
    assert "13.png" in capsys.readouterr().err
    assert not (files / "student.distilled.onnx").exists()
    assert distill(files, "--epochs", 1, "--recipe", f"{RECIPE},on-bad=skip") == 0
    assert "sample skipped" in capsys.readouterr().err


def test_too_few_images_for_a_batch(files: Path, capsys) -> None:
    assert distill(files, "--recipe", "batch=64,workers=0") == 2
    assert "24 samples do not fill a batch of 64" in capsys.readouterr().err


def test_help_is_fast() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "graphopt", "distill", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "torch" not in done.stderr
    assert "--teacher" in done.stdout
