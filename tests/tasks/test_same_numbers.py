"""The loss over the zoo's own module and over the view of its exported graph."""

from __future__ import annotations

import pytest
import torch

from graphopt import zoo
from graphopt.frontends.normal_form import normalize
from graphopt.fx import to_fx
from graphopt.tasks import task_for


@pytest.mark.parametrize(
    ("name", "decoder", "size"),
    [("yolov3-tiny", None, 128), ("yolov4", "yolov4", 64), ("retinanet-r50-fpn", None, 128)],
)
def test_module_and_view_have_one_loss(name: str, decoder: str | None, size: int) -> None:
    torch.manual_seed(0)
    module = zoo.build(name, classes=3)
    graph = normalize(zoo.export(name, classes=3, input_size=size))
    setup = task_for(graph, decoder=decoder)
    view = to_fx(graph)
    images = torch.randn(2, 3, size, size)
    boxes = torch.tensor([[0, 5, 10, 60, 50.0], [2, 30, 5, 62, 60.0], [1, 3, 3, 9, 12.0]])
    targets = torch.stack((boxes, boxes.flip(0)))
    targets[1, 0, 0] = -1
    # in training mode too: statistics of the batch instead of those that are kept
    for is_training in (False, True):
        module.train(is_training)
        view.train(is_training)
        losses = [setup.loss(each(images), targets) for each in (module, view)]
        assert set(losses[0]) == set(losses[1]) >= {"box", "class"}
        for term in losses[0]:
            one, other = losses[0][term], losses[1][term]
            assert one > 0
            torch.testing.assert_close(
                one, other, rtol=1e-5 if not is_training else 1e-4, atol=1e-5
            )
    sum(losses[1].values()).backward()
    grads = [p.grad for p in view.parameters() if p.grad is not None]
    assert len(grads) > 20
    assert all(g.isfinite().all() for g in grads)
