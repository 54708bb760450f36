"""Heads compared where the teacher sees something: by hand, at equality, and where it sees nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import parse_loss


def head(*rows: list[float]) -> Tensor:
    """One image with one place: a row per anchor."""
    return torch.tensor([v for row in rows for v in row]).view(1, -1, 1, 1)


def coin(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand() -> None:
    teacher = head([0.0, 1.0, 0.5, -0.5, 2.0, 1.0, -1.0])
    student = head([1.0, 1.0, 0.0, 0.0, -1.0, 0.0, 2.0])
    seen = sigmoid(2.0)
    box = (sigmoid(1.0) - 0.5) ** 2 + 0.25 + 0.25
    classes = coin(sigmoid(1.0), 0.5) + coin(sigmoid(-1.0), sigmoid(2.0))
    total = coin(seen, sigmoid(-1.0)) + seen * (2 * box + 3 * classes)
    loss = parse_loss("objectness-scaled{anchors=1 box=2 classes=3}")
    assert float(loss(student, teacher)) == pytest.approx(
        total, rel=1e-5
    )  # O is below 1: not divided


def test_it_is_zero_for_equal_heads_and_grows_apart() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 3 * 8, 4, 4) * 3
    loss = parse_loss("objectness-scaled")
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-5)
    near, far = (float(loss(teacher + s * torch.randn_like(teacher), teacher)) for s in (0.1, 1.0))
    assert 0 < near < far


def test_boxes_and_classes_of_empty_places_are_not_learnt() -> None:
    teacher = torch.zeros(1, 7, 2, 2)
    teacher[:, 4] = -30.0
    teacher[:, 4, 0, 0] = 4.0
    student = torch.randn(1, 7, 2, 2, requires_grad=True)
    parse_loss("objectness-scaled{anchors=1}")(student, teacher).backward()
    assert student.grad is not None
    others = [0, 1, 2, 3, 5, 6]
    assert bool((student.grad[0, others, 0, 0].abs() > 1e-4).all())
    assert float(student.grad[0, others, 1, :].abs().max()) < 1e-10
    assert bool((student.grad[0, 4].abs() > 1e-4).all())  # how sure it is: learnt everywhere


def test_more_empty_places_do_not_make_objects_count_less() -> None:
    teacher = torch.zeros(1, 6, 1, 1)
    teacher[:, 4] = 5.0
    student = torch.full_like(teacher, 0.7)
    student[:, 4] = 5.0

    def padded(head: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(head, (0, 7, 0, 7))
        wide[:, 4, 1:] = wide[:, 4, :, 1:] = -30.0
        return wide

    loss = parse_loss("objectness-scaled{anchors=1}")
    small, large = loss(student, teacher), loss(padded(student), padded(teacher))
    assert float(small) == pytest.approx(float(large), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("objectness-scaled", (1, 20, 4, 4), "3 anchors"),
        ("objectness-scaled{anchors=4}", (1, 16, 4, 4), "at least 5"),
        ("objectness-scaled", (1, 24), "raw maps"),
        ("objectness-scaled{anchors=0}", (1, 24, 4, 4), "anchors=0"),
        ("objectness-scaled{box=-1}", (1, 24, 4, 4), "box"),
    ],
)
def test_what_is_no_head_is_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_loss(text)(torch.zeros(shape), torch.zeros(shape))
