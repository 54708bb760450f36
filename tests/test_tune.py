"""Tuning: measured ways are taken, remembered, and compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from test_bad_input import fails, run

import graphopt
from graphopt import tune as tuning
from graphopt.errors import UsageError
from graphopt.oracle import error_of
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.deploy.bundle import make_bundle
from graphopt.runtime.lower.choose import Direct, Shape, Winograd, conv, ways
from graphopt.runtime.machine import machine_of
from graphopt.runtime.native import NativeRunner
from graphopt.runtime.places.place import Place, read_place
from graphopt.runtime.run import open_graph
from graphopt.runtime.targets import target
from tests.runtime.cross import need

NET = """(float[1,16,12,12] x) => (float[1,32,12,12] y)
    <float[16,16,3,3] w, float[16] b, float[32,16,1,1] v, float[16,16,3,3] u>
    { a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
      c = Conv <pads = [1,1,1,1]> (r, u)  y = Conv (c, v) }"""
HOST = Place(target("host"), "host")


def fake(figures: dict[int, float]):
    """A measurement that likes Winograd's algorithm by its m; direct is 0."""

    def measure(compiled) -> float:
        (kernel, *_) = [
            s.kernel for s in compiled.program.steps if s.what.removesuffix(" input") == "tuned"
        ]
        tiling = getattr(kernel, "tiling", None)
        return figures[tiling.m if tiling is not None else 0]

    return measure


@pytest.fixture(name="graph")
def a_graph():
    return graph_from(NET)


def test_the_fastest_is_taken_and_remembered(graph, tmp_path, monkeypatch) -> None:
    figures = {0: 5.0, 2: 4.0, 3: 1.0, 4: 3.0, 5: 2.0}
    monkeypatch.setattr(tuning, "_measure_at", lambda _: fake(figures))
    found = tuning.tune(graph, HOST, cache=tmp_path)
    assert found.measured == 2  # the 3x3 convolutions have one shape
    best = {s.window.kernel: way for s, way in found.ways.items()}
    assert isinstance(best[3, 3], Winograd)
    assert best[3, 3].m == 3
    assert isinstance(best[1, 1], Direct)
    compiled = compile_graph(graph, target("host"), tuned=found.ways)
    used = {getattr(s.kernel, "tiling", None) and s.kernel.tiling.m for s in compiled.program.steps}
    assert 3 in used
    assert not used & {2, 4, 5}

    def never(_):
        raise AssertionError("measured again")

    monkeypatch.setattr(tuning, "_measure_at", lambda _: never)
    again = tuning.tune(graph, HOST, cache=tmp_path)
    assert (again.measured, again.ways) == (0, found.ways)
    file = tmp_path / "host.host.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps({**text, "graphopt": "0.0.0"}))
    with pytest.raises(AssertionError, match="measured again"):
        tuning.tune(graph, HOST, cache=tmp_path)
    file.write_text("{")
    with pytest.raises(AssertionError, match="measured again"):
        tuning.tune(graph, HOST, cache=tmp_path)


@pytest.mark.parametrize("board", ["host", "tx2", "kirin990"])
def test_every_way_computes_the_same(board: str, tmp_path: Path) -> None:
    """On this machine; what differs between boards is which ways there are."""
    need("cc")
    graph = graph_from(NET)
    machine = machine_of(target(board))
    shapes = tuning._shapes(graph, target(board), "float32")
    assert len(shapes) == 2
    for shape in shapes:
        found = ways(machine, shape, 8)
        assert len(found) == len(set(found)) == 8
        assert found[0] == conv(machine, shape) or found[0].cycles == conv(machine, shape).cycles
        assert [w.cycles for w in found] == sorted(w.cycles for w in found)
        algorithms = {getattr(w, "m", 0) for w in found}
        assert len(algorithms) > 2 if shape.suits_winograd else algorithms == {0}
    if board != "host":
        return
    x = np.random.default_rng(0).standard_normal((1, 16, 12, 12)).astype(np.float32)
    expected = open_graph(graph).run({"x": x})["y"]
    shape = next(s for s in shapes if s.suits_winograd)
    for number, way in enumerate(ways(machine, shape, 8)):
        compiled = compile_graph(graph, target("host"), tuned={shape: way})
        make_bundle(compiled, tmp_path / str(number), name="net")
        made = NativeRunner(tmp_path / str(number), threads=1, cores=()).run({"x": x})["y"]
        assert error_of(expected, made) < 1e-5


def test_groups_get_tiles_that_fit_them() -> None:
    machine = machine_of(target("tx2"))
    window = next(
        s.window for s in tuning._shapes(graph_from(NET), target("tx2"), "float32") if s.depth
    )
    shape = Shape(window, 3, 6, (10, 10), 2)
    assert all(isinstance(w, Direct) and 3 % w.vectors == 0 for w in ways(machine, shape, 8))


def test_really_measured(graph, tmp_path: Path) -> None:
    need("cc", "zig", "qemu", "sysroot")
    place = read_place("tx2@emulated")
    monkey = tuning._TRIALS
    tuning._TRIALS = 2
    try:
        found = tuning.tune(graph, place, cache=tmp_path)
    finally:
        tuning._TRIALS = monkey
    assert found.measured == 2
    assert all(g >= 1 for g in found.gains.values())
    assert (tmp_path / "tx2.emulated.json").exists()


def test_on_the_command_line(tmp_path: Path, monkeypatch) -> None:
    need("cc")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    graphopt.save(
        graph_from(
            "(float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w> { y = Conv (x, w) }"
        ),
        tmp_path / "net.onnx",
    )
    done = run("compile", tmp_path / "net.onnx", "--target", "host", "--tune", "host")
    assert done.returncode == 0, done.stderr
    assert "note: tuned at host: 1 shapes of convolutions, 1 of them measured now" in done.stdout
    assert [p.name for p in (tmp_path / "cache" / "tuning").iterdir()] == ["host.host.json"]
    again = ("--target", "host", "--tune", "host", "--force")
    assert ", 0 of them measured now" in run("compile", tmp_path / "net.onnx", *again).stdout


def test_what_cannot_be_tuned(graph, tmp_path: Path) -> None:
    graphopt.save(graph, tmp_path / "net.onnx")
    for options, told in (
        (("--target", "host", "--tune", "emulated"), "for host it is --tune host"),
        (("--target", "tx2", "--tune", "host"), "emulated or rpc:ADDRESS:PORT"),
        (("--target", "tx2", "--tune", "board"), "after the @ comes emulated"),
        (("--target", "tx2", "--tune", "ssh:me@there"), "there is no tuning over ssh"),
        (("--target", "tx2-gpu", "--tune", "rpc:a:1"), "there is no tuning for GPUs"),
    ):
        line = fails(tmp_path, "compile", tmp_path / "net.onnx", *options, code=2)
        assert told in line
    with pytest.raises(UsageError, match="there is no tuning for GPUs"):
        tuning.tune(graph, Place(target("tx2-gpu"), "rpc", "a:1"), cache=tmp_path)
