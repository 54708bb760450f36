"""Bad input: one line that says what, where and what to do; a non-zero exit code; nothing written."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from conftest import graph_from

import graphopt
from graphopt.errors import LoadError, SaveError
from graphopt.runtime.run import open_graph

CONV = (
    "(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w> { c = Conv (x, w)  y = Relu (c) }"
)


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user would."""
    command = [sys.executable, "-m", "graphopt", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def fails(folder: Path, *arguments: object, code: int = 1) -> str:
    """Runs, checks the contract of a failure, and returns its one line."""
    before = sorted(p.name for p in folder.iterdir())
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("FAILED: "), done.stderr
    assert sorted(p.name for p in folder.iterdir()) == before, "something was left behind"
    return lines[-1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    graphopt.save(graph_from(CONV), path)
    return path


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in fails(tmp_path, "optimize", tmp_path / "none.onnx")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in fails(tmp_path, "optimize", tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    assert "is empty" in fails(tmp_path, "inspect", _write(tmp_path / "m.onnx", b""))


def test_truncated_protobuf(tmp_path: Path, model: Path) -> None:
    cut = _write(tmp_path / "cut.onnx", model.read_bytes()[:-100])
    assert "truncated" in fails(tmp_path, "optimize", cut)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(5000)
    with pytest.raises(LoadError, match="not an ONNX model|holds no graph"):
        graphopt.load(_write(tmp_path / "m.onnx", data))


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.9])
def test_corrupted_bytes_never_crash(tmp_path: Path, model: Path, at: float) -> None:
    data = bytearray(model.read_bytes())
    start = int(len(data) * at)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data[start : start + 8] = rng.bytes(8)
        try:
            graphopt.load(_write(tmp_path / "m.onnx", bytes(data)))
        except graphopt.GraphoptError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["hello world", '{"graph": 1}', "<html>", "# nothing"])
def test_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(LoadError, match="not an ONNX model|text file"):
        graphopt.load(_write(tmp_path / "m.onnx", text.encode()))


class Bomb:
    """Unpickling this writes a file: a loaded pickle would be caught in the act."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_refused_and_never_loaded(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "exploded"
    bomb = _write(tmp_path / "m.onnx", pickle.dumps(Bomb(mark), protocol=protocol))
    with pytest.raises(LoadError, match="pickle"):
        graphopt.load(bomb)
    assert not mark.exists()


def test_a_torch_checkpoint_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(2)}, path)
    assert "torch.onnx.export" in fails(tmp_path, "optimize", path)


def test_a_model_without_outputs(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    del proto.graph.output[:]
    path = _write(tmp_path / "m.onnx", proto.SerializeToString())
    assert "no outputs" in fails(tmp_path, "optimize", path)


def _external(folder: Path, location: str, **entries: object) -> Path:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[4] x) => (float[4] y) { y = Add (x, w) }'
    )
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return _write(folder / "m.onnx", proto.SerializeToString())


def test_external_data(tmp_path: Path) -> None:
    _write(tmp_path / "w.bin", b"\0" * 16 + np.arange(4, dtype=np.float32).tobytes())
    graph = graphopt.load(_external(tmp_path, "w.bin", offset=16, length=16))
    np.testing.assert_array_equal(graph.tensors()["w"].values, np.arange(4, dtype=np.float32))


def test_missing_external_data(tmp_path: Path) -> None:
    assert "not beside the model" in fails(tmp_path, "optimize", _external(tmp_path, "w.bin"))


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    _write(tmp_path / "w.bin", b"\0" * 12)
    assert "past the file's end" in fails(tmp_path, "optimize", _external(tmp_path, "w.bin"))


def test_external_data_of_the_wrong_length(tmp_path: Path) -> None:
    _write(tmp_path / "w.bin", b"\0" * 64)
    path = _external(tmp_path, "w.bin", length=20)
    assert "its type and shape need 16" in fails(tmp_path, "optimize", path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", ""])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    _write(tmp_path / "secret", b"\0" * 16)
    with pytest.raises(LoadError, match="outside the model's folder"):
        graphopt.load(_external(inner, location))


def test_external_data_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    _write(tmp_path / "secret", b"\0" * 16)
    (inner / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(LoadError, match="outside the model's folder"):
        graphopt.load(_external(inner, "w.bin"))


def _in_a_branch(folder: Path, location: str) -> Path:
    """A model whose branches keep a weight each: an initializer in a file, and a Constant there."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20]> g (float[4] x, bool p) => (float[4] y) {
        y = If (p) <then_branch = t () => (float[4] a) <float[4] w = {0,0,0,0}> { a = Add (x, w) },
        else_branch = e () => (float[4] b) { k = Constant <value = float[4] {0,0,0,0}> () b = Mul (x, k) }> }"""
    )
    yes, no = (a.g for a in proto.graph.node[0].attribute)
    for tensor in (yes.initializer[0], no.node[0].attribute[0].t):
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    return _write(folder / "m.onnx", proto.SerializeToString())


def test_external_data_of_a_subgraph(tmp_path: Path) -> None:
    _write(tmp_path / "w.bin", np.arange(4, dtype=np.float32).tobytes())
    graph = graphopt.load(_in_a_branch(tmp_path, "w.bin"))
    runner = open_graph(graph)
    for flag, expected in ((True, [1, 2, 3, 4]), (False, [0, 1, 2, 3])):
        feeds = {"x": np.ones(4, np.float32), "p": np.array(flag)}
        np.testing.assert_array_equal(runner.run(feeds)["y"], expected)


def test_external_data_of_a_subgraph_outside_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    _write(tmp_path / "secret", b"\0" * 16)
    with pytest.raises(LoadError, match="outside the model's folder"):
        graphopt.load(_in_a_branch(inner, "../secret"))


def test_a_model_that_draws_random_numbers_is_named_as_such(tmp_path: Path) -> None:
    text = "(float[4] x) => (float[4] y) { r = RandomNormalLike (x)  y = Add (x, r) }"
    graphopt.save(graph_from(text), tmp_path / "m.onnx")
    line = fails(tmp_path, "optimize", tmp_path / "m.onnx", code=3)
    assert "RandomNormalLike 'RandomNormalLike_r' draws random numbers" in line
    assert "--no-verify" in line


def test_a_negative_seed_is_a_usage_error(model: Path) -> None:
    done = run("optimize", model, "--seed", "-1")
    assert done.returncode == 2
    assert "--seed" in done.stderr


def test_an_unknown_domain_is_kept_untouched_but_not_proven(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18, "my.ops": 3]> g (float[4] x) => (float[4] y)'
        " { a = Relu (x)  b = Relu (a)  y = my.ops.Strange <k = 3> (b) }"
    )
    path = _write(tmp_path / "m.onnx", proto.SerializeToString())
    assert "left alone" in fails(tmp_path, "optimize", path, code=3)
    done = run("optimize", path, "-o", tmp_path / "o.onnx", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert "not verified" in done.stdout
    after = onnx.load(tmp_path / "o.onnx")
    (strange,) = (n for n in after.graph.node if n.domain == "my.ops")
    assert (strange.op_type, strange.attribute[0].i) == ("Strange", 3)
    assert {o.domain: o.version for o in after.opset_import}["my.ops"] == 3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("x", "write NAME:1,3,416,416"),
        ("x:1,3,a,8", "write NAME:1,3,416,416"),
        ("x:1,3,-8,8", "positive sizes"),
        ("z:1,3,8,8", "no input is called 'z'"),
        ("x:1,3,8", "has 4 dimensions"),
        ("x:1,3,16,16", "contradicts"),
    ],
)
def test_wrong_input_shape(tmp_path: Path, model: Path, shape: str, message: str) -> None:
    assert message in fails(tmp_path, "optimize", model, "--input-shape", shape, code=2)


def test_a_pass_that_does_not_exist(tmp_path: Path, model: Path) -> None:
    line = fails(tmp_path, "optimize", model, "--passes", "simplifi", code=2)
    assert "did you mean simplify" in line


def test_a_selector_that_matches_nothing(tmp_path: Path, model: Path) -> None:
    assert "'fuse-conv-nb'" in fails(tmp_path, "optimize", model, "--skip", "fuse-conv-nb", code=2)


def test_an_unknown_option_is_a_usage_error(model: Path) -> None:
    done = run("optimize", model, "--nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_output_into_a_missing_folder(tmp_path: Path, model: Path) -> None:
    target = tmp_path / "no" / "o.onnx"
    assert "create the folder first" in fails(tmp_path, "optimize", model, "-o", target)


def test_a_report_into_a_file_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    line = fails(tmp_path, "optimize", model, "--report", model, code=2)
    assert "name a folder" in line


def test_output_is_a_folder(tmp_path: Path, model: Path) -> None:
    assert "is a folder" in fails(tmp_path, "optimize", model, "-o", tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "o.onnx"
    target.write_bytes(b"what was there before")
    original = Path.open

    def opens_full(self: Path, mode: str = "r", *rest: object) -> object:
        full = mode == "wb" and self.name == target.name
        return original(Path("/dev/full") if full else self, mode, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", opens_full)
    with pytest.raises(SaveError, match="No space left on device; nothing was changed"):
        graphopt.save(graph_from(CONV), target)
    assert target.read_bytes() == b"what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["o.onnx"]


def test_a_result_onnx_runtime_cannot_load_replaces_nothing(tmp_path: Path) -> None:
    graph = graph_from(CONV)
    graph.nodes[0].op = "NoSuchOperator"
    graph.nodes[0].domain = "nowhere"
    target = tmp_path / "o.onnx"
    target.write_bytes(b"what was there before")
    with pytest.raises(SaveError, match="does not load"):
        graphopt.save(graph, target)
    assert target.read_bytes() == b"what was there before"


def test_output_is_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SaveError, match="no regular file"):
        graphopt.save(graph_from(CONV), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_output_may_replace_the_input(model: Path) -> None:
    done = run("optimize", model, "-o", model, "--no-measure")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("PASSED in ")
    graphopt.load(model)


def test_nan_weights_are_warned_about(tmp_path: Path) -> None:
    graph = graph_from(CONV)
    weight = next(t for t in graph.tensors().values() if t.name == "w")
    weight.values = np.full_like(weight.values, np.nan)
    graphopt.save(graph, tmp_path / "m.onnx")
    done = run("optimize", tmp_path / "m.onnx", "--no-measure")
    assert done.returncode == 0, done.stderr
    assert "weights hold NaN or infinite values: w" in done.stdout


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    done = run("-v", "optimize", tmp_path / "none.onnx")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("FAILED: ")


def test_an_old_opset_is_refused_with_advice(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["": 6]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    path = _write(tmp_path / "m.onnx", proto.SerializeToString())
    assert "opset 6 is older than 7" in fails(tmp_path, "optimize", path)
