"""Files: deterministic, atomic, external when large, and light on memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from

import graphopt
import graphopt.zoo
from graphopt.frontends import onnx_file
from graphopt.oracle import Oracle

BIG = "(float[N,64] x) => (float[N,64] y) <float[64,64] w, float[64,64] v> { a = MatMul (x, w)  y = MatMul (a, v) }"


def test_round_trip(tmp_path: Path) -> None:
    graph = graph_from(BIG)
    graphopt.save(graph, tmp_path / "m.onnx")
    again = graphopt.load(tmp_path / "m.onnx")
    assert graphopt.to_text(again) == graphopt.to_text(graph)
    assert Oracle(graph).check(again, 0.0).passed
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_same_graph_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        graphopt.save(graph_from(BIG), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_streamed_bytes_are_what_protobuf_would_write(tmp_path: Path) -> None:
    graph = graph_from(BIG)
    graphopt.save(graph, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(tensor), graph.tensors()[tensor.name].values
        )


def test_large_models_keep_their_weights_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 20_000)
    graph = graph_from(BIG)
    path = tmp_path / "m.onnx"
    graphopt.save(graph, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 2000
    again = graphopt.load(path)
    assert Oracle(graph).check(again, 0.0).passed
    graphopt.save(again, path)  # reading from the very file that is replaced
    assert Oracle(graph).check(graphopt.load(path), 0.0).passed


def test_a_failed_save_keeps_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 20_000)
    path = tmp_path / "m.onnx"
    graphopt.save(graph_from(BIG), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    broken = graph_from(BIG)
    broken.nodes[0].op = "NoSuchOperator"
    with pytest.raises(graphopt.GraphoptError):
        graphopt.save(broken, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


PEAK = r"""
import re, sys
from pathlib import Path
from graphopt.optimize import optimize_file
optimize_file(Path(sys.argv[1]), Path(sys.argv[2]))
# Not ru_maxrss: that starts at what the parent process held when it forked.
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_stays_below_four_times_the_file(tmp_path: Path) -> None:
    proto = graphopt.zoo.export("yolov3", input_size=96)
    path = tmp_path / "yolov3.onnx"
    path.write_bytes(proto.SerializeToString())
    size = path.stat().st_size
    assert size > 240_000_000
    command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "o.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 4 * size


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """A model protobuf cannot hold: 2.2 GB of weights, mapped in and streamed out."""
    rows = 34_000
    matrix = np.lib.format.open_memmap(tmp_path / "w.npy", "w+", np.float32, (rows, 2 * 8192))
    matrix[:, 0] = 1
    from graphopt.ir.graph import Constant

    graph = graph_from("(float[1,4] x) => (float[1,4] y) <float[4,4] w> { y = MatMul (x, w) }")
    graph.inputs[0].shape, graph.outputs[0].shape = [1, rows], [1, 2 * 8192]
    graph.nodes[0].inputs[1] = Constant("w", matrix)
    path = tmp_path / "m.onnx"
    graphopt.save(graph, path)
    assert (tmp_path / "m.onnx.data").stat().st_size > 2_200_000_000
    again = graphopt.load(path)
    assert Oracle(graph).check(again, 0.0).passed


def test_a_link_stays_a_link_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    graphopt.save(graph_from(BIG), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["m.onnx"]
    assert graphopt.to_text(graphopt.load(tmp_path / "real" / "m.onnx")) == graphopt.to_text(
        graph_from(BIG)
    )


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".onnx")
    graphopt.save(graph_from(BIG), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
