"""Channels last while a graph's view trains: the same numbers, and nobody else's module is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from graphopt.frontends.normal_form import normalize
from graphopt.fx import to_fx
from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.losses import Given, Loss
from graphopt.passes.distill.losses.gram import Gram
from graphopt.passes.distill.losses.pkd import Pkd
from graphopt.training import Hook, Moment, Objective, Recipe, Task, Trainer
from graphopt.zoo import export

LAST = torch.channels_last


class Pictures:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        return {"x": rng.random((3, 32, 32), np.float32), "y": np.array(index % 10)}


class Seen(Hook):
    """Whether weights lay channels last when a step was over."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def after_step(self, model: nn.Module, at: Moment) -> None:
        weights = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        self.found.append(all(w.is_contiguous(memory_format=LAST) for w in weights))


def view() -> fx.GraphModule:
    return to_fx(normalize(export("resnet20", untrained=True)))


def trained(model: nn.Module) -> list[bool]:
    seen = Seen()
    recipe = Recipe(epochs=1, batch=4, lr=0.01, workers=0, augment="none")
    loss = Task(nn.functional.cross_entropy)
    Trainer(model, loss, Pictures(), ["x", "y"], recipe, hooks=[seen], device="cpu").run()
    return seen.found


def test_a_view_trains_channels_last_and_comes_back_as_it_was() -> None:
    model = view()
    assert trained(model) == [True, True]
    assert all(p.is_contiguous() for p in model.parameters())


def test_the_order_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for how in ("last", "usual"):
        if how == "usual":
            monkeypatch.setattr("graphopt.training.loop.lay_out", lambda *_, **__: None)
        model = view()
        assert all(trained(model)) == (how == "last")
        found[how] = dict(model.named_parameters())
    for name, value in found["last"].items():
        torch.testing.assert_close(value, found["usual"][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [Pkd, Gram], ids=["any-layout", "usual-layout"])
def test_a_student_and_its_teacher(kind: type[Loss]) -> None:
    """Both networks run channels last; what is compared does where the loss takes it; same weights."""
    found, orders = {}, []

    class Watched(kind):
        def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
            orders.append(student.is_contiguous() and teacher.is_contiguous())
            return super().distance(student, teacher, given)

    for how in ("last", "usual"):
        student, teacher = view(), view()
        terms = {(n, n): Watched() for n in ("relu_1", "relu_7", "relu_13")}
        distillation = Distillation(student, teacher, terms, example=torch.rand(2, 3, 32, 32))
        distillation.any_layout = how == "last"
        seen = Seen()
        recipe = Recipe(epochs=1, batch=4, lr=0.01, workers=0, augment="none")
        with torch.no_grad():
            for weight in teacher.parameters():
                weight.mul_(1.1)
        run = Trainer(
            *(distillation.student, distillation, Pictures(), ["x"], recipe),
            hooks=[seen],
            device="cpu",
        )
        orders.clear()  # the try on the example
        run.run()
        assert all(seen.found) == (how == "last")
        assert set(orders) == {how == "usual" or not kind.any_layout}
        deep = next(p for p in teacher.parameters() if p.dim() == 4 and p.shape[1] > 8)
        assert deep.is_contiguous(memory_format=LAST) == (how == "last")
        assert all(p.is_contiguous() for p in student.parameters())
        found[how] = dict(student.named_parameters())
    for name, value in found["last"].items():
        torch.testing.assert_close(value, found["usual"][name], rtol=1e-3, atol=1e-5)


def test_an_objective_of_the_users_own_may_take_views() -> None:
    class Own(Objective):
        def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> dict:
            return {"own": model(inputs[0]).view(-1).square().mean()}

    seen = Seen()
    recipe = Recipe(epochs=1, batch=4, lr=0.01, workers=0, augment="none")
    Trainer(view(), Own(), Pictures(), ["x"], recipe, hooks=[seen], device="cpu").run()
    assert seen.found == [False, False]


def test_a_users_module_may_take_views() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.line = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 32 * 32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.line(self.conv(x).view(x.shape[0], -1))

    assert trained(Viewing()) == [False, False]
    assert trained(fx.symbolic_trace(Viewing())) == [False, False]


def test_a_users_loss_may_take_views() -> None:
    """As YOLO's usually do, of maps (images, channels, height, width)."""

    def loss(y: Tensor, label: Tensor) -> Tensor:
        return y.view(len(y), -1).square().mean() + 0 * label.sum()

    graph = normalize(export("yolov3-tiny", width=0.25, input_size=32, untrained=True))
    recipe = Recipe(epochs=1, batch=4, lr=0.01, workers=0, augment="none")
    objective = Task(lambda maps, label: sum(loss(m, label) for m in maps))
    Trainer(to_fx(graph), objective, Pictures(), ["x", "y"], recipe, device="cpu").run()


@pytest.mark.parametrize("how", ["labels", "teacher"])
def test_a_network_that_decodes_its_boxes(how: str) -> None:
    """Its anchors have five axes, which no order of four fits."""

    def decoding() -> fx.GraphModule:
        options = {"width": 0.25, "input_size": 32, "untrained": True}
        return to_fx(normalize(export("yolov3-tiny", decode=True, **options)))

    model = decoding()
    assert any(t.dim() == 5 for t in (*model.parameters(), *model.buffers()))
    recipe = Recipe(epochs=1, batch=4, lr=0.01, workers=0, augment="none")
    objective: Objective = Task(lambda rows, label: rows[..., 4:].square().mean() + 0 * label.sum())
    if how == "teacher":
        terms = {("predictions", "predictions"): "mse"}
        objective = Distillation(model, decoding(), terms, example=torch.rand(2, 3, 32, 32))
        model = objective.student
    seen = Seen()
    names = ["x", "y"] if how == "labels" else ["x"]
    Trainer(model, objective, Pictures(), names, recipe, hooks=[seen], device="cpu").run()
    assert seen.found == [True, True]
