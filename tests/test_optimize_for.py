"""graphopt optimize --target: from a model to a measured bundle in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import graph_from
from test_bad_input import fails, run
from test_cli_compile import NET

import graphopt
from graphopt.frontends.onnx_file import load
from graphopt.optimize import optimize_file
from graphopt.optimize_for import compiled_for
from graphopt.runtime.targets import target
from tests.runtime.cross import need


@pytest.fixture(name="model")
def a_model(tmp_path: Path) -> Path:
    graphopt.save(graph_from(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_here(model: Path) -> None:
    need("cc")
    report = model.with_name("report")
    shape = ("--input-shape", "images:1,4,12,12")
    done = run("optimize", model, "--target", "host", *shape, "--report", report)
    assert done.returncode == 0, done.stderr
    assert f"wrote {model.with_name('net.opt.host')}" in done.stdout
    assert "net.opt.host" in done.stdout.split("engine")[1]
    found = json.loads((report / "report.json").read_text())
    engines = [(r["model"], r["engine"]) for r in found["bench"]["rows"]]
    assert engines == [
        ("net.onnx", "ONNX Runtime"),
        ("net.onnx", "graphopt"),
        ("net.opt.host", "graphopt"),
    ]
    assert found["bundle"]["target"] == "host"
    assert "Compiled for host" in (report / "report.html").read_text()
    told = fails(model.parent, "optimize", model, "--target", "host", *shape, code=2)
    assert "net.opt.host exists; --force replaces it" in told
    done = run("optimize", model, "--target", "host", *shape, "--force", "--no-measure", "--json")
    found = json.loads(done.stdout)
    assert found["bench"] is None
    assert "the bundle for host was not measured, as asked" in found["notes"]


def test_for_a_board(model: Path) -> None:
    need("cc", "zig", "qemu", "sysroot")
    optimized = model.with_name("net.opt.onnx")
    shapes = {"images": [1, 4, 12, 12]}
    before = optimize_file(model, optimized, input_shapes=shapes, measure=False)
    board, folder = target("tx2"), model.with_name("bundle")
    after = compiled_for(before, model, optimized, folder, board, input_shapes=shapes)
    assert after.bundle is not None
    assert after.bench is not None
    assert after.bench["place"] == "tx2@emulated"
    # A normalization that was folded is not computed.
    first, second = (r["instructions"] for r in after.bench["rows"])
    assert second <= first
    assert after.bundle["bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    assert list(load(optimized).inputs[0].shape) == [1, 4, 12, 12]


def test_too_much_for_an_emulator(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("cc", "zig", "qemu", "sysroot")
    monkeypatch.setattr("graphopt.optimize_for._MOST_EMULATED_MACS", 10)
    optimized = model.with_name("net.opt.onnx")
    shapes = {"images": [1, 4, 12, 12]}
    run_ = optimize_file(model, optimized, input_shapes=shapes, measure=False)
    after = compiled_for(run_, model, optimized, model.with_name("bundle"), target("tx2"))
    assert after.bench is None
    assert any("graphopt bench --target tx2@emulated" in note for note in after.notes)


def test_bad_input(model: Path) -> None:
    told = fails(model.parent, "optimize", model, "--force", code=2)
    assert "there is no --target" in told
    told = fails(model.parent, "optimize", model, "--target", "tx3", code=2)
    assert "tx2" in told
