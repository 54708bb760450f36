"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from conftest import graph_from
from test_bad_input import run

import graphopt

NET = """(float[N,3,16,16] x) => (float[N,8,16,16] y)
    <float[8,3,3,3] w, float[8] gamma, float[8] beta, float[8] mean, float[8] var>
    { c = Conv <pads = [1,1,1,1]> (x, w)  b = BatchNormalization (c, gamma, beta, mean, var)  y = Relu (b) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    graphopt.save(graph_from(NET), path)
    return path


def test_optimize_writes_beside_the_model_and_says_so(model: Path) -> None:
    done = run("optimize", model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    target = model.with_name("net.opt.onnx")
    assert f"wrote {target}" in done.stdout
    assert "equal outputs in onnxruntime" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("PASSED in ")
    assert [n.op_type for n in onnx.load(target).graph.node] == ["Conv", "Relu"]


def test_json_holds_the_same_facts_and_nothing_else_is_on_stdout(model: Path) -> None:
    done = run("optimize", model, "--json", "--no-measure")
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    assert (report["before"]["nodes"], report["after"]["nodes"]) == (3, 2)
    assert report["verification"]["error"] <= report["verification"]["tolerance"] < 1e-3
    fused = next(p for p in report["passes"] if p["name"] == "fuse-conv-bn")
    assert fused["status"] == "verified"
    assert len(fused["rewrites"]) == 1


def test_same_input_same_bytes(model: Path, tmp_path: Path) -> None:
    results = []
    for k in range(2):
        target = tmp_path / f"o{k}.onnx"
        assert run("optimize", model, "-o", target, "--no-measure").returncode == 0
        results.append(target.read_bytes())
    assert results[0] == results[1]


def test_the_pipeline_can_come_from_a_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[[pass]]\nname = "simplify"\n')
    target = tmp_path / "o.onnx"
    assert run("optimize", model, "--pipeline", file, "-o", target, "--no-measure").returncode == 0
    assert "BatchNormalization" in [n.op_type for n in onnx.load(target).graph.node]


def test_skip_and_only(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    assert run("optimize", model, "--skip", "fuse-*", "-o", target, "--no-measure").returncode == 0
    assert "BatchNormalization" in [n.op_type for n in onnx.load(target).graph.node]
    done = run("optimize", model, "--only", "fuse-conv-bn", "-o", target, "--no-measure", "--json")
    assert [p["name"] for p in json.loads(done.stdout)["passes"]] == ["fuse-conv-bn"]


def test_input_shape_fixes_the_batch(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    done = run("optimize", model, "--input-shape", "x:2,3,16,16", "-o", target, "--no-measure")
    assert done.returncode == 0, done.stderr
    dims = onnx.load(target).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3, 16, 16]


def test_the_symbolic_batch_keeps_its_name(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    assert run("optimize", model, "-o", target, "--no-measure").returncode == 0
    graph = onnx.load(target).graph
    for info in (graph.input[0], graph.output[0]):
        assert info.type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_report_is_written(model: Path, tmp_path: Path) -> None:
    done = run("optimize", model, "--report", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'report' / 'report.html'}" in done.stdout
    assert json.loads((tmp_path / "report" / "report.json").read_text())["schema"] == 1


def test_inspect(model: Path) -> None:
    done = run("inspect", model)
    assert done.returncode == 0, done.stderr
    assert "3 nodes" in done.stdout
    told = json.loads(run("inspect", model, "--target", "tx2", "--json").stdout)
    assert told["predicted_ms"] == sum(v["predicted_ms"] for v in told["layers"]) > 0
    assert "predicted: " in run("inspect", model, "--target", "tx2").stdout
    layers = json.loads(run("inspect", model, "--json").stdout)["layers"]
    assert layers[0]["op"] == "Conv"
    assert layers[0]["macs"] == 8 * 3 * 9 * 16 * 16
    assert layers[0]["parameters"] == 8 * 3 * 9


def test_compare_equal_and_different(model: Path, tmp_path: Path) -> None:
    run("optimize", model, "--no-measure")
    target = model.with_name("net.opt.onnx")
    done = run("compare", model, target)
    assert done.returncode == 0, done.stderr
    assert "BatchNormalization" in done.stdout
    graph = graphopt.load(target)
    graph.nodes[1].op = "Sigmoid"
    graphopt.save(graph, tmp_path / "other.onnx")
    done = run("compare", model, tmp_path / "other.onnx")
    assert done.returncode == 3
    assert "outputs differ" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("FAILED: the outputs of")


def test_compare_needs_the_same_inputs(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    graphopt.save(graph_from("(float[2] z) => (float[2] y) { y = Relu (z) }"), other)
    assert run("compare", model, other).returncode == 2


def test_passes_lists_all_and_shows_one() -> None:
    listed = json.loads(run("passes", "--json").stdout)
    assert {p["name"] for p in listed} == set(graphopt.registry.PASSES)
    done = run("passes", "merge-sibling-convs")
    assert "max-channels = " in done.stdout
    assert "runs after fuse-conv-bn" in done.stdout


def test_zoo_list() -> None:
    names = [row["name"] for row in json.loads(run("zoo", "list", "--json").stdout)]
    assert {"yolov3", "yolov4", "retinanet-r50-fpn", "mobilenetv2"} <= set(names)


def test_zoo_export_and_optimize(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    done = run("zoo", "export", "resnet20", "-o", path)
    assert done.returncode == 0, done.stderr
    names = {t.name for t in onnx.load(path).graph.initializer}
    assert "fc.weight" in names or any(n.endswith(".weight") for n in names)
    assert run("optimize", path, "--no-measure").returncode == 0


def test_zoo_near_miss(tmp_path: Path) -> None:
    done = run("zoo", "export", "yolo3", "-o", tmp_path / "m.onnx")
    assert done.returncode == 2
    assert "yolov3" in done.stderr


def test_help_is_quick() -> None:
    """0.1 s on a quiet machine, and next to nothing beyond the library of the command line."""

    def once(*arguments: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - started

    # In turns and against each other: the machine may be busy, the program may not be slow.
    pairs = [(once("-m", "graphopt", "--help"), once("-c", "import typer")) for _ in range(7)]
    helps, imports = zip(*pairs, strict=True)
    assert min(helps) < 3.5 * min(imports)


def test_version() -> None:
    assert run("--version").stdout.strip() == f"graphopt {graphopt.__version__}"


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m graphopt inspect {model} | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "FAILED" not in done.stderr


def _saved(folder: Path, name: str, text: str) -> Path:
    graphopt.save(graph_from(text), folder / name)
    return folder / name


def test_compare_says_which_shapes_and_outputs_are_not_the_same(tmp_path: Path) -> None:
    a = _saved(tmp_path, "a.onnx", "(float[1,4] x) => (float[1,4] y) { y = Relu (x) }")
    wide = _saved(tmp_path, "b.onnx", "(float[1,8] x) => (float[1,8] y) { y = Relu (x) }")
    named = _saved(tmp_path, "c.onnx", "(float[1,4] x) => (float[1,4] z) { z = Relu (x) }")
    done = run("compare", a, wide)
    assert done.returncode == 2
    assert f"input 'x' is [1, 4] in {a} and [1, 8] in {wide}" in done.stderr
    done = run("compare", a, named)
    assert done.returncode == 2
    assert f"{a} has the outputs ['y'], {named} has ['z']" in done.stderr
    assert run("compare", a, _saved(tmp_path, "d.onnx", NET)).returncode == 2


def test_compare_names_the_output_that_differs(tmp_path: Path) -> None:
    a = _saved(tmp_path, "a.onnx", "(float[1,4] x) => (float[1,4] y) { y = Relu (x) }")
    b = _saved(tmp_path, "b.onnx", "(float[1,4] x) => (float[1,4] y) { y = Abs (x) }")
    done = run("compare", a, b)
    assert done.returncode == 3
    assert "at output 'y'" in done.stderr


def test_types_numpy_lacks_put_no_warning_into_the_json(tmp_path: Path) -> None:
    text = "(bfloat16[4] x) => (bfloat16[4] y) { y = Abs (x) }"
    graphopt.save(
        graph_from(text), tmp_path / "m.onnx", runnable=False
    )  # ONNX Runtime has no kernel
    done = run("inspect", tmp_path / "m.onnx", "--json")
    assert json.loads(done.stdout)["activation_bytes"] == 8
