"""A few thousand parameters learn eight pictures by heart, through every part of the way."""

from __future__ import annotations

import pytest
from tasks.painting import painted, small_graph

from graphopt.evaluate import evaluate
from graphopt.evaluate.decoders.anchors import AnchorMaps, Yolov3Tiny, Yolov5
from graphopt.fx import to_fx, write_back
from graphopt.tasks import labelled_samples, task_for
from graphopt.tasks.anchors import fitted_anchors
from graphopt.training import Recipe, Task, Trainer


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (Yolov3Tiny, ""),
        (Yolov3Tiny, "objectness=focal aim=iou iou=giou object=250"),
        (Yolov5, ""),
    ],
)
def test_eight_pictures(kind: type[AnchorMaps], loss: str) -> None:
    examples, graph = painted(8), small_graph()
    decoder = kind(fitted_anchors(examples, 64, scales=2), (2.0, 2.0) if kind.squared else (1, 1))
    setup = task_for(graph, decoder=decoder, loss=loss)
    samples = labelled_samples(examples, graph, setup)
    view = to_fx(graph)
    recipe = Recipe(
        epochs=300, batch=8, optimizer="adamw", lr=0.01, workers=0, augment="none", clip=50.0
    )
    names = ["images", "targets"]
    history = Trainer(view, Task(setup.loss), samples, names, recipe, device="cpu").run()
    write_back(view, graph)
    found = evaluate(graph, examples, "detection", decoder=setup.decoder)
    assert found["ap50"] > 0.9
    assert history.rows[-1]["box"] < 0.2 * history.rows[0]["box"]
