"""The FX view of every network of the zoo, and of real files, equals ONNX Runtime."""

from __future__ import annotations

import pytest
import torch
from fx.checking import departure_of

from graphopt.errors import RunError, UnsupportedError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load
from graphopt.frontends.torch_module import to_onnx
from graphopt.fx import to_fx, write_back
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.registry import parse_passes
from graphopt.zoo import build, names

QUICK = ("mobilenetv2", "yolov3-tiny", "wrn-16-2")
EVERY = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names()]


def prepared(graph: Graph) -> Graph:
    """Statistics that are computed from constants become constants."""
    try:
        to_fx(graph)
    except UnsupportedError:
        return Pipeline(parse_passes("fold-shapes, simplify")).run(graph).graph
    return graph


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", EVERY)
def test_zoo(name: str, exporter: str) -> None:
    size = 32 if name.startswith(("wrn", "resnet-cifar")) else 128
    model = to_onnx(build(name).eval(), torch.randn(2, 3, size, size), exporter=exporter)
    graph = prepared(normalize(model))
    assert departure_of(graph) <= 1
    assert write_back(to_fx(graph), graph) == []


def test_assets(assets, subtests) -> None:
    for path in sorted((assets / "models").glob("*.onnx")):
        with subtests.test(path.name):
            assert departure_of(load(path)) <= 1


@pytest.mark.slow
def test_files_of_many_producers(assets, subtests) -> None:
    viewed = 0
    for path in sorted((assets / "onnx_zoo").glob("*.onnx")):
        with subtests.test(path.name):
            try:
                graph = prepared(load(path))
                error = departure_of(graph)
            except (UnsupportedError, RunError) as refusal:
                assert len(str(refusal)) < 600
                continue
            except Exception as error:
                assert "opset" in str(error), error
                continue
            viewed += 1
            assert error <= 1
    assert viewed >= 30
