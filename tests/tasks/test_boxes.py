"""Overlap of boxes: values by hand, and gradients where boxes are hardly any."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphopt.tasks import boxes
from graphopt.tasks.boxes import OVERLAPS, best_pairs, is_above


def box(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


A, B = box(0, 0, 4, 2), box(2, 1, 6, 5)  # share 2 x 1 of 8 + 16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iou", 2 / 22),
        ("giou", 2 / 22 - (30 - 22) / 30),
        ("diou", 2 / 22 - (2**2 + 2**2) / (6**2 + 5**2)),
    ],
)
def test_by_hand(name: str, value: float) -> None:
    assert OVERLAPS[name](A, B).item() == pytest.approx(value)
    assert OVERLAPS[name](B, A).item() == pytest.approx(value)


def test_ciou_by_hand() -> None:
    v = 4 / math.pi**2 * (math.atan(4 / 4) - math.atan(4 / 2)) ** 2
    alpha = v / (1 - 2 / 22 + v)
    wanted = 2 / 22 - 8 / 61 - alpha * v
    assert boxes.ciou(A, B).item() == pytest.approx(wanted)


@pytest.mark.parametrize("name", OVERLAPS)
def test_a_box_and_itself(name: str) -> None:
    assert OVERLAPS[name](A, A).item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_boxes_apart_still_pull(name: str) -> None:
    far = box(20, 20, 24, 22).requires_grad_()
    value = OVERLAPS[name](far, A)
    value.sum().backward()
    assert value < 0
    assert far.grad[0, 0] < 0  # smaller coordinates are better
    assert boxes.iou(far, A) == 0


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize(
    "values", [(1, 1, 1, 1), (1, 1, 5, 1), (1, 1, 1, 5), (0, 0, 0, 0), (-1e9, 0, 1e9, 1e-9)]
)
def test_degenerate_boxes_have_finite_gradients(name: str, values: tuple[float, ...]) -> None:
    for other in (box(*values), B):
        for kind in (torch.float32, torch.float64):
            a, b = box(*values).to(kind).requires_grad_(), other.to(kind).clone().requires_grad_()
            found = OVERLAPS[name](a, b)
            found.sum().backward()
            assert found.isfinite().all()
            assert a.grad.isfinite().all()
            assert b.grad.isfinite().all()


@pytest.mark.parametrize("name", ["iou", "giou", "diou"])
def test_gradients_against_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    low = torch.rand(8, 2, dtype=torch.float64) * 4
    a = torch.cat((low, low + 1 + torch.rand_like(low) * 4), 1).requires_grad_()
    b = (a.detach().flip(0) + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(OVERLAPS[name], (a, b))


def test_the_weight_of_the_shape_is_a_constant() -> None:
    a = A.clone().requires_grad_()
    weight = _shape(A, B) / (1 - boxes.iou(A, B) + _shape(A, B))
    wanted = torch.autograd.grad(boxes.diou(a, B) - weight * _shape(a, B), a)[0]
    torch.testing.assert_close(torch.autograd.grad(boxes.ciou(a, B), a)[0], wanted)
    assert torch.autograd.gradcheck(lambda x: _shape(x, B), (a,))


def _shape(a: Tensor, b: Tensor) -> Tensor:
    angles = [torch.atan((x[:, 2] - x[:, 0]) / (x[:, 3] - x[:, 1])) for x in (a, b)]
    return 4 / math.pi**2 * (angles[1] - angles[0]) ** 2


def test_sizes_and_corners() -> None:
    sizes = torch.tensor([[2.0, 8.0], [4.0, 4.0]])
    assert boxes.size_iou(sizes[0], sizes[1]).item() == pytest.approx(8 / (16 + 16 - 8))
    xy, wh = boxes.centres(torch.tensor([[1.0, 2.0, 5.0, 10.0]]))
    assert (xy.tolist(), wh.tolist()) == ([[3, 6]], [[4, 8]])
    assert boxes.corners(xy, wh).tolist() == [[1, 2, 5, 10]]


def test_many_against_many(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    low = torch.rand(3, 7, 2) * 8
    others = torch.cat((low, low + 1 + torch.rand_like(low)), -1)
    some = others[0, :5] + 0.1
    table = boxes.iou(some[None, :, None], others[:, None])
    highest, which, best = best_pairs(some, others)
    assert torch.equal(highest, table.amax(2))
    assert torch.equal(which, table.argmax(2))
    seen = table.amax(1) > 0  # what overlaps with none has its nearest
    assert torch.equal(best[seen], table.argmax(1)[seen])
    each = some.expand(3, -1, -1)
    assert torch.equal(is_above(each, others, 0.5), (table > 0.5).any(2))
    monkeypatch.setattr(boxes, "_AT_ONCE", 1)  # image by image
    assert all(map(torch.equal, best_pairs(some, others), (highest, which, best)))
    assert torch.equal(is_above(each, others, 0.5), (table > 0.5).any(2))
    assert not is_above(each, others[:, :0], 0.0).any()


def test_among_boxes_that_overlap_alike_the_nearest_is_the_best() -> None:
    wide = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 9], [2, 2, 10, 10]])
    assert best_pairs(wide, torch.tensor([[[4.5, 4.5, 5.5, 5.5]]]))[2].tolist() == [[1]]
    # but overlap comes first
    two = torch.tensor([[3.0, 3, 7, 7], [0, 0, 10, 1.8]])
    assert best_pairs(two, torch.tensor([[[0.0, 0, 10, 10]]]))[2].tolist() == [[1]]
