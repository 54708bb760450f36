"""Networks that no loss is known for can be judged, and fed with images of labelled sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from
from evaluate.making import detector, yolo
from tasks.test_task_setup import TINY

from graphopt.errors import UsageError
from graphopt.evaluate import evaluate
from graphopt.evaluate.decoders import METADATA
from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import Graph
from graphopt.tasks import labelled_samples, task_for, unlabelled_samples
from graphopt.tasks.judging import judging

LABELS = "shapes:test,count=4,size=64"
MAP = """(float[1,3,64,64] x) => (float[1,10,4,4] y) <float[10,3,16,16] w>
    { y = Conv <strides = [16,16]> (x, w) }"""
ROWS = """(float[1,3,64,64] x) => (float[1,60,10] y)
    <float[30,3,16,16] a, float[30,3,32,32] b, int64[3] s = {1, 10, -1}>
    { c = Conv <strides = [16,16]> (x, a)  fc = Reshape (c, s)
      d = Conv <strides = [32,32]> (x, b)  fd = Reshape (d, s)
      o = Concat <axis = 2> (fc, fd)  t = Transpose <perm = [0,2,1]> (o)  y = Sigmoid (t) }"""


def network(text: str, decoder: str = "") -> Graph:
    graph = graph_from(text)
    if decoder:
        graph.metadata[METADATA] = decoder
    return graph


NETWORKS = {"fastestdet": (MAP, ""), "rows of no known formula": (ROWS, "decoded")}


@pytest.mark.parametrize("kind", NETWORKS)
def test_judged_as_by_evaluate(kind: str, tmp_path: Path) -> None:
    graph = network(*NETWORKS[kind])
    with pytest.raises(UsageError, match="loss"):
        task_for(graph)
    save(graph, tmp_path / "m.onnx")
    wanted = evaluate(tmp_path / "m.onnx", LABELS, "detection")
    found = judging(LABELS)(graph)
    assert set(found) == {"ap", "ap50"}
    assert found == {k: wanted[k] for k in found}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_images_of_a_labelled_set(kind: str) -> None:
    images = unlabelled_samples(LABELS, network(*NETWORKS[kind]))
    assert [set(images[k]) for k in range(len(images))] == [{"x"}] * 4
    assert images[0]["x"].shape == (3, 64, 64)
    assert len({images[k]["x"].tobytes() for k in range(4)}) == 4


def test_the_same_images_as_with_labels(tmp_path: Path) -> None:
    source, graph = f"yolo:{yolo(tmp_path, '1 0.5 0.5 0.5 0.5')}", detector(TINY)
    for words in ("", "stretch, bgr"):
        labelled = labelled_samples(source, graph, task_for(graph), preprocess=words)
        images = unlabelled_samples(source, graph, preprocess=words)
        assert len(images) == len(labelled) == 2
        for k in range(2):
            np.testing.assert_array_equal(images[k]["x"], labelled[k]["x"])
