"""What a network is for, found from its outputs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import graph_from
from evaluate.making import detector

from graphopt.errors import ModelError, UsageError
from graphopt.evaluate.decoders import METADATA
from graphopt.evaluate.decoders.anchors import Yolov3Tiny
from graphopt.tasks import task_for

TINY = "1,21,4,4 a; 1,21,2,2 b"
THREE = "1,21,8,8 a; 1,21,4,4 b; 1,21,2,2 c"
RETINA = "; ".join(
    f"1,{c},{n},{n} {k}{n}" for k, c in (("c", 18), ("b", 36)) for n in (16, 8, 4, 2, 1)
)


def classifier(end: str = "Identity") -> Any:
    return graph_from(
        "(float[N,3,4,4] x) => (float[N,3] y) { m = GlobalAveragePool (x) f = Flatten (m) "
        f"y = {end} (f) }}"
    )


def test_a_classifier() -> None:
    setup = task_for(classifier())
    assert (setup.task, setup.decoder, setup.metric, setup.classes) == (
        "classification",
        None,
        "top1",
        3,
    )
    outputs = torch.randn(2, 3)
    assert set(setup.loss(outputs, torch.tensor([0, 2]))) == {"class"}


def test_a_classifier_that_ends_in_a_softmax() -> None:
    outputs, kinds = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    wanted = task_for(classifier()).loss(outputs, kinds)["class"]
    found = task_for(classifier("Softmax")).loss(outputs.softmax(1), kinds)["class"]
    torch.testing.assert_close(found, wanted)


def test_who_names_a_decoder_means_a_detector() -> None:
    with pytest.raises(UsageError, match="no loss is known for decoder 'yolox'"):
        task_for(classifier(), decoder="yolox")


def test_a_detector() -> None:
    setup = task_for(detector(TINY))
    assert (setup.task, setup.metric, setup.classes) == ("detection", "ap50", 2)
    assert setup.decoder == Yolov3Tiny()
    terms = setup.loss((torch.randn(1, 21, 4, 4), torch.randn(1, 21, 2, 2)), torch.zeros(1, 0, 5))
    assert set(terms) == {"box", "object", "class"}


def test_the_options_of_the_loss() -> None:
    outputs = (torch.randn(1, 21, 4, 4), torch.randn(1, 21, 2, 2))
    plain, twice = (
        task_for(detector(TINY), loss=text).loss(outputs, torch.zeros(1, 0, 5))["object"]
        for text in ("object=1", "object=2")
    )
    torch.testing.assert_close(2 * plain, twice)


def test_retinanet() -> None:
    setup = task_for(detector(RETINA, 128), loss="iou=giou")
    assert (setup.classes, str(setup.decoder)) == (2, "retinanet")
    maps = [torch.randn(1, c, n, n) for c in (18, 36) for n in (16, 8, 4, 2, 1)]
    assert set(setup.loss(maps, torch.zeros(1, 0, 5))) == {"box", "class"}
    four = task_for(detector(RETINA.replace("1,18", "1,36"), 128))
    assert four.classes == 4


def test_the_decoder_decides_the_anchors() -> None:
    text = "yolov3-tiny{anchors=4x4|8x8|9x9|20x20|30x30|31x31}"
    setup = task_for(detector(TINY), decoder=text)
    assert setup.loss.decoder.anchors[0] == ((4, 4), (8, 8), (9, 9))  # type: ignore[attr-defined]
    remembering = detector(THREE)
    remembering.metadata[METADATA] = "yolov4"
    assert str(task_for(remembering).decoder) == "yolov4"


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (TINY, {"task": "segmentation"}, "no task is called 'segmentation'"),
        (TINY, {"task": "classification"}, "a classifier has one output"),
        (TINY, {"decoder": "yolov4"}, r"'yolov4' needs 3 maps of anchors .* outputs are a \(1, 21"),
        (TINY, {"loss": "boxes=1"}, "no option of the yolo loss is called 'boxes'"),
        (TINY, {"loss": "balance=1|2|3"}, "write 2 numbers"),
        (THREE, {}, "several decoders fit .*: yolov3, yolov4, yolov5"),
        ("1,22,4,4 a; 1,22,2,2 b", {"decoder": "yolov3-tiny"}, "needs 2 maps"),
        ("1,15,4,4 a; 1,15,2,2 b", {"decoder": "yolov3-tiny"}, "needs 2 maps"),
        ("1,84,85 a", {}, "no loss is known for decoder 'yolox'"),
        ("1,50,4 boxes; 1,50,80 scores", {}, "'retinanet' needs a class map and a box map"),
        (RETINA.replace("1,18", "1,19"), {"decoder": "retinanet"}, "class maps of anchors"),
    ],
)
def test_refused(outputs: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task_for(detector(outputs), **options)


def test_a_detector_of_any_size_is_refused() -> None:
    graph = detector(TINY)
    graph.inputs[0].shape = [1, 3, "h", "w"]
    with pytest.raises(UsageError, match="no fixed height and width"):
        task_for(graph, decoder="yolov3-tiny")


def test_a_model_that_names_a_wrong_decoder() -> None:
    graph = detector(TINY)
    graph.metadata[METADATA] = "yolov4"
    with pytest.raises(ModelError, match=r"metadata graphopt.decoder is 'yolov4', which does not"):
        task_for(graph)


def test_importing_it_loads_no_torch() -> None:
    probe = "import sys, graphopt.tasks; print(sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
