"""Processes that train one model together: they end with the same weights, and one of them writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

from graphopt import processes
from graphopt.errors import UsageError
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.graph import Constant
from graphopt.recipes import find_recipe, read_recipe, run_recipe

NETWORK = """(float[N,3,8,8] x) => (float[N,4] y)
    <float[6,3,3,3] w, float[6] g, float[6] b, float[6] m, float[6] var, float[4,6] f>
    { c = Conv <pads = [1,1,1,1]> (x, w)  n = BatchNormalization (c, g, b, m, var)  r = Relu (n)
      p = GlobalAveragePool (r)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""
TRAINS = """
import hashlib, os, sys
import running
model, history = running.train(epochs=3, batch=8)
weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
with open(sys.argv[1] + os.environ["RANK"], "w") as file:
    file.write(f"{history.steps} {hashlib.sha256(weights).hexdigest()}")
"""


def _second(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)


def test_one_process_is_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "3")  # of somebody's own numbering: no launcher of ours
    assert (processes.count(), processes.is_first()) == (1, True)
    assert processes.place_for(tmp_path / "out.onnx") == tmp_path / "out.onnx"


def test_another_process_writes_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _second(monkeypatch)
    assert (processes.count(), processes.is_first()) == (2, False)
    place = processes.place_for(tmp_path / "out.onnx")
    assert place.name == "out.onnx"
    assert place.parent.is_dir()
    assert place.parent != tmp_path


def test_recipes_run_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _second(monkeypatch)
    with pytest.raises(UsageError, match="runs in one process: start it without accelerate launch"):
        run_recipe(read_recipe(find_recipe("any-onnx"), "smoke"), tmp_path)


def _launched(*command: str, cwd: Path) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """Each half of the batches; the same weights in the end."""
    script = tmp_path / "trains.py"
    here = Path(__file__).resolve().parent
    script.write_text(f"import sys; sys.path.insert(0, {str(here / 'training')!r})\n{TRAINS}")
    _launched(str(script), str(tmp_path / "made"), cwd=here.parent)
    first, second = ((tmp_path / f"made{rank}").read_text().split() for rank in (0, 1))
    assert first == second
    assert first[0] == "9"  # 48 samples, 3 epochs, 2 processes with 8 samples a step


@pytest.mark.slow
def test_the_first_process_talks_and_writes(tmp_path: Path) -> None:
    save(graph_from(NETWORK), tmp_path / "given.onnx")
    images = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    command = "-m graphopt distill given.onnx --teacher given.onnx --data images.npy -o made.onnx"
    text = _launched(*command.split(), "--epochs", "2", "--recipe", "batch=8", cwd=tmp_path)
    assert text.count("wrote made.onnx") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given.onnx", "images.npy", "made.onnx"]
    made = {t.name: t for t in load(tmp_path / "made.onnx").tensors().values()}
    assert isinstance(made["w"], Constant)
