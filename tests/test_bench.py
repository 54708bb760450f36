"""graphopt bench as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import graph_from
from test_bad_input import fails, run
from test_cli_compile import NET

import graphopt
from graphopt.runtime.places.turns import Timed, in_turns, ratio
from tests.runtime.cross import need


@pytest.fixture(name="model")
def a_model(tmp_path: Path) -> Path:
    graphopt.save(graph_from(NET), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_on_this_machine_beside_onnx_runtime(model: Path) -> None:
    need("cc")
    done = run("compile", model, "--target", "host", "--size", "S=18")
    assert done.returncode == 0, done.stderr
    how = ("--size", "S=16", "--seconds", "0.2", "--threads", "1")
    done = run("bench", model, model.with_name("net.host"), *how, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = told["rows"]
    assert [(r["model"], r["engine"]) for r in rows] == [
        ("net.onnx", "ONNX Runtime"),
        ("net.onnx", "graphopt"),
        ("net.host", "graphopt"),
    ]
    assert rows[0]["speed"] == 1
    assert all(0 < r["figures"]["least"] <= r["figures"]["median"] for r in rows)
    assert rows[1]["error"] < 1e-4
    assert len(rows[1]["figures"]["layers"]) > 2
    done = run("bench", model, *how, "--layers")
    assert "GlobalAveragePool" in done.stdout
    assert "engines took turns" in done.stdout


def test_on_an_emulated_core(model: Path) -> None:
    need("cc", "zig", "qemu", "sysroot")
    done = run("bench", model, "--target", "tx2@emulated", "--size", "S=18", "--layers")
    assert done.returncode == 0, done.stderr
    assert "one cortex-a57, one thread" in done.stdout
    assert "no times on a board" in done.stdout
    assert " ms" not in done.stdout.split("one cortex-a57")[0]
    done = run("bench", model, "--target", "tx2@emulated", "--size", "S=18", "--json")
    row = json.loads(done.stdout)["rows"][0]
    assert row["instructions"] == sum(v["instructions"] for v in row["figures"]["layers"])
    assert row["error"] < 1e-4


def test_bad_input(model: Path, tmp_path: Path) -> None:
    need("cc")
    assert "tx2@emulated counts" in fails(tmp_path, "bench", model, "--target", "tx2", code=2)
    assert "--size S=" in fails(tmp_path, "bench", model, code=2)
    assert "is no bundle" in fails(tmp_path, "bench", tmp_path)
    done = run("compile", model, "--target", "host", "--size", "S=18")
    assert done.returncode == 0, done.stderr
    bundle = model.with_name("net.host")
    told = fails(tmp_path, "bench", bundle, "--target", "tx2@emulated", code=2)
    assert "is for host, not for tx2" in told
    (tmp_path / "bundle").mkdir()
    text = (bundle / "manifest.json").read_text().replace('"target": "host"', '"target": "tx2"')
    (tmp_path / "bundle" / "manifest.json").write_text(text)
    there = ("--target", "tx2@rpc:localhost:1")
    assert "is made of the ONNX file" in fails(
        tmp_path, "bench", tmp_path / "bundle", *there, code=2
    )


class Sleeper:
    """Notes when it runs."""

    name = "sleeper"

    def __init__(self, log: list[str], word: str) -> None:
        self._log, self._word = log, word
        log.append(f"open {word}")

    def run(self, feeds):
        self._log.append(self._word)
        return {}


def test_engines_take_turns() -> None:
    log: list[str] = []
    openers = [lambda w=w: Sleeper(log, w) for w in "ab"]
    first, second = in_turns(openers, [{}, {}], 0.004)
    assert [v for v in log if v.startswith("open")] == [f"open {w}" for w in "abbaabba"]
    assert len(first.blocks) == len(second.blocks) == 4
    assert first.runs + second.runs == len([v for v in log if v in "ab"]) - 2 * 8  # two warm each


def test_ratios_are_those_of_neighbours() -> None:
    first, second = Timed([1.0, 2.0, 30.0], 1.0, 9), Timed([0.5, 1.0, 15.0], 0.4, 9)
    assert ratio(first, second) == 2.0
    assert first.median == 2.0
