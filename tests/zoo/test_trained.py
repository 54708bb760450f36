"""The trained example: it finds what it was trained on, and weights go out and in unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt import zoo
from graphopt.cli import main
from graphopt.errors import UsageError
from graphopt.evaluate import evaluate
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.graph import Constant, Graph
from graphopt.zoo.trained import classes_of, save_weights, trained_example

SMALL = {"network": "yolov3-tiny", "classes": 2, "width": 0.125, "input-size": 64}


def small() -> Graph:
    model = zoo.export("yolov3-tiny", classes=2, width=0.125, input_size=64, seed=3)
    return normalize(model)


def test_it_finds_drawn_shapes() -> None:
    found = evaluate(trained_example(), "shapes:test,count=60", "detection")
    assert found["decoder"] == "yolov3-tiny"
    assert found["ap50"] > 0.9


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.onnx"
    with pytest.raises(SystemExit) as done:
        main(["zoo", "export", "shapes-detector", "-o", str(path)])
    assert done.value.code == 0
    assert load(path).metadata["graphopt.decoder"].startswith("yolov3-tiny{anchors=")
    with pytest.raises(SystemExit) as refused:
        main(["zoo", "export", "shapes-detector", "-o", str(path), "--classes", "3"])
    assert refused.value.code != 0
    assert "takes no options" in capsys.readouterr().err


def test_weights_go_out_and_in(tmp_path: Path) -> None:
    graph = small()
    save_weights(graph, tmp_path / "w.safetensors", SMALL)
    again = normalize(
        zoo.export(
            "yolov3-tiny",
            classes=2,
            width=0.125,
            input_size=64,
            weights=tmp_path / "w.safetensors",
        )
    )
    mine = {n: t.values for n, t in graph.tensors().items() if isinstance(t, Constant)}
    for name, tensor in again.tensors().items():
        if isinstance(tensor, Constant) and name in mine:
            exact = tensor.values.ndim < 2  # the rest is stored in half precision
            assert np.allclose(tensor.values, mine[name], rtol=0 if exact else 1e-3, atol=1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not this network"):
        save_weights(small(), tmp_path / "w.safetensors", {**SMALL, "width": 0.25})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "classes"), [("yolov3-tiny", 4), ("retinanet-r50-fpn", 4), ("wrn-16-1", 4)]
)
def test_classes_are_read_off_the_outputs(network: str, classes: int) -> None:
    size = 32 if network.startswith("wrn") else 64
    graph = normalize(
        zoo.export(network, classes=classes, width=0.125, input_size=size, untrained=True)
    )
    assert classes_of(graph, network) == classes
    with pytest.raises(UsageError, match="not those of yolov4"):
        classes_of(graph, "yolov4")


def test_the_command_writes_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), tmp_path / "m.onnx")
    command = ["zoo", "weights", str(tmp_path / "m.onnx"), "--network", "yolov3-tiny"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--width", "0.125", "-o", str(tmp_path / "w.safetensors")])
    assert done.value.code == 0
    assert "MB" in capsys.readouterr().out
