"""graphopt train: a network of the zoo or a file, and labels; what cannot be is refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.cli import main
from graphopt.frontends.onnx_file import load, save
from graphopt.train import untrained

DATA = "shapes:train,count=16,size=64"
QUICK = [
    "--epochs",
    "1",
    "--recipe",
    "batch=8,workers=0,lr=0.01",
    "--no-measure",
    "--device",
    "cpu",
]
SMALL = ["--width", "0.125", "--input-size", "64"]


def run(*command: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(command))
    return int(done.value.code or 0)


def test_a_detector_of_the_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "d.onnx", tmp_path / "report"
    validation = ["--validation", "shapes:test,count=8,size=64", "--report", str(report)]
    command = ["train", "yolov3-tiny", "--data", DATA, "-o", str(out), *SMALL, *QUICK, *validation]
    assert run(*command) == 0
    graph = load(out)
    assert [t.name for t in graph.outputs] == ["p4", "p5"]
    assert graph.outputs[0].shape[1] == 3 * (5 + 5)  # as many classes as the labels name
    assert "anchors=" in graph.metadata["graphopt.decoder"]
    # what the exporter left of shapes is not computed in every step
    assert not {"Shape", "CastLike", "Expand"} & {n.op for n in graph.nodes}
    assert "ap50" in capsys.readouterr().out
    (row,) = json.loads((report / "report.json").read_text())["training"]["rows"]
    assert {"box", "object", "class", "ap50"} <= set(row)


def test_a_classifier_and_on_from_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    data = ["--data", "patches:train,count=32", "--preprocess", "cifar"]
    assert run("train", "wrn-16-1", *data, "--width", "0.5", "-o", str(first), *QUICK) == 0
    assert load(first).outputs[0].shape[1] == 8
    assert run("train", str(first), *data, "-o", str(second), *QUICK, "--json") == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{\n") :])["after"]["path"] == str(second)
    assert first.read_bytes() != second.read_bytes()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.onnx" for k in range(3)]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        more = ["-o", str(path), *SMALL, *QUICK, "--seed", seed]
        assert run("train", "yolov3-tiny", "--data", DATA, *more) == 0
    one, same, other = (path.read_bytes() for path in files)
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["yolov3-tiny", "--data", "shapes:trian"], "train"),
        (["yolov3-tiny", "--data", DATA, "--width", "0"], "width=0"),
        (["yolov3-tiny", "--data", DATA, "--input-size", "50"], "multiples of 32"),
        (["yolov3-tiny", "--data", DATA, *SMALL, "--anchors", "guessed"], "guessed"),
        (["yolov3-tiny", "--data", DATA, *SMALL, "--loss", "iou=none"], "iou"),
        (["yolov3-tiny", "--data", DATA, *SMALL, "--recipe", "lrr=3"], "lrr"),
        (["yolov3-tiny", "--data", "patches:train"], "classification"),
        (["nowhere.onnx", "--data", DATA], "nowhere.onnx"),
        (["nowhere.onnx", "--data", DATA, "--width", "0.5"], "networks of the zoo"),
        (["yolov3-tiny", "--data", DATA, *SMALL, "--classes", "2"], "class"),
    ],
)
def test_what_cannot_be_trained_is_told_and_nothing_written(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *command, "-o", str(tmp_path / "o.onnx"), "--epochs", "1") != 0
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("FAILED: ")
    assert message in told
    assert not list(tmp_path.iterdir())


def test_labels_without_names_ask_for_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("draw", "-o", str(tmp_path / "set"), "--count", "16", "--size", "64") == 0
    data = ["--data", f"yolo:{tmp_path}/set", "-o", str(tmp_path / "o.onnx"), *SMALL, *QUICK]
    assert run("train", "yolov3-tiny", *data) != 0
    assert "give classes=N" in capsys.readouterr().err
    assert run("train", "yolov3-tiny", *data, "--classes", "5") == 0


def test_a_file_without_a_known_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = untrained("yolov3-tiny", DATA, None, 0.125, 64, 0)
    graph.outputs = graph.outputs[:1]
    save(graph, tmp_path / "half.onnx")
    more = ["--data", DATA, "-o", str(tmp_path / "o.onnx"), *QUICK]
    assert run("train", str(tmp_path / "half.onnx"), *more) != 0
    assert "decoder" in capsys.readouterr().err
