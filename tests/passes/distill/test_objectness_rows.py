"""Rows of boxes and probabilities compared where the teacher sees something, and by default for such outputs."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import graph_from
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.distill.losses import parse_loss
from graphopt.passes.distill.recover import Recover
from graphopt.passes.distill.recovery import default_terms


def coin(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def rows(*values: list[float]) -> Tensor:
    return torch.tensor([values])


def test_by_hand() -> None:
    teacher = rows([50.0, 40.0, 20.0, 10.0, 0.8, 0.7, 0.2])
    student = rows([54.0, 41.0, 10.0, 20.0, 0.3, 0.5, 0.4])
    box = (4 / 20) ** 2 + (1 / 10) ** 2 + 2 * math.log(2) ** 2
    classes = coin(0.7, 0.5) + coin(0.2, 0.4)
    total = coin(0.8, 0.3) + 0.8 * (2 * box + 3 * classes)
    loss = parse_loss("objectness-rows{box=2 classes=3}")
    assert float(loss(student, teacher)) == pytest.approx(total, rel=1e-5)


def test_boxes_in_cells_by_hand() -> None:
    teacher, student = rows([0.2, 0.4, 1.0, -1.0, 0.5]), rows([0.5, 0.4, 1.5, -1.0, 0.5])
    loss = parse_loss("objectness-rows{units=cells}")
    assert float(loss(student, teacher)) == pytest.approx(0.5 * (0.09 + 0.25), rel=1e-5)


def test_it_is_a_loss_per_object() -> None:
    """However many there are, and however many rows show nothing."""
    one, other = [50.0, 40.0, 20.0, 10.0, 1.0], [52.0, 40.0, 20.0, 10.0, 1.0]
    empty = [[5.0, 5.0, 3.0, 3.0, 0.0]] * 7
    loss = parse_loss("objectness-rows")
    wanted = float(loss(rows(other), rows(one)))
    assert wanted == pytest.approx(0.01, rel=1e-4)
    assert float(loss(rows(other, other, *empty), rows(one, one, *empty))) == pytest.approx(wanted)


def test_boxes_and_classes_of_empty_rows_are_not_learnt() -> None:
    teacher = torch.tensor([[[50.0, 40, 20, 10, 0.9, 0.7], [9.0, 9, 5, 5, 0.0, 0.2]]])
    student = torch.tensor([[[51.0, 42, 25, 15, 0.5, 0.4], [19.0, 29, 15, 25, 0.3, 0.6]]])
    student.requires_grad_()
    parse_loss("objectness-rows")(student, teacher).backward()
    assert student.grad is not None
    assert bool((student.grad[0, 0].abs() > 1e-4).all())
    assert not student.grad[0, 1, [0, 1, 2, 3, 5]].any()
    assert float(student.grad[0, 1, 4]) > 0.1  # how sure it is: learnt everywhere


def test_certain_and_odd_values_stay_finite() -> None:
    teacher = rows([50.0, 40.0, 0.0, 10.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0 + 1e-6, -1e-6])
    student = rows([50.0, 40.0, 5.0, -1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    student.requires_grad_()
    value = parse_loss("objectness-rows")(student, teacher)
    value.backward()
    assert bool(value.isfinite())
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert float(student.grad[0, 0, 4]) < 0  # what is missed is learnt


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("objectness-rows{units=inches}", (1, 2, 6), "none of pixels, cells"),
        ("objectness-rows{box=-1}", (1, 2, 6), "box"),
        ("objectness-rows", (1, 2, 4), r"needs equal rows \(N, rows, 5 \+ C\)"),
        ("objectness-rows", (1, 16, 2, 2), "needs equal rows"),
        ("objectness-rows", (0, 2, 6), "at least one value"),
    ],
)
def test_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_loss(text)(torch.ones(shape), torch.ones(shape))


def making_rows(count: int) -> Graph:
    return graph_from(
        f"""(float[1,3,64,64] x) => (float[1,{count},8] rows)
        <float[3,{8 * count}] w, int64[3] shape = {{1, {count}, 8}}>
        {{ a = GlobalAveragePool (x)  b = Flatten (a)  c = Gemm (b, w)  rows = Reshape (c, shape) }}"""
    )


@pytest.mark.parametrize(
    ("count", "loss"),
    [(252, "objectness-rows"), (84, "objectness-rows{units=cells}"), (99, "kl")],
)
def test_who_puts_out_rows_is_compared_so_by_default(count: int, loss: str) -> None:
    """252 rows for 64 x 64 pixels are three for every cell, 84 are one; 99 are neither."""
    graph = making_rows(count)
    found = default_terms(graph, graph, None, Recover(feature="none"))
    at = "c" if count == 99 else "rows"
    assert {pair: str(t.loss) for pair, t in found.items()} == {(at, at): loss}
    asked = default_terms(graph, graph, None, Recover(head="mse", feature="none"))
    assert {pair: str(t.loss) for pair, t in asked.items()} == {("c", "c"): "mse"}
