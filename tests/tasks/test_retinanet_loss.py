"""The loss of RetinaNet's maps: terms by hand, anchors, gradients, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.retina import Retina
from graphopt.tasks.retinanet import RetinaLoss, RetinaOptions
from graphopt.zoo.decode import RETINA_STRIDES, RetinaDecode

LN2 = math.log(2)
# one anchor of 32 x 32 in 4 x 4 cells of 8 pixels, one of 64 x 64 in 2 x 2 of 16
SIMPLE = Retina(strides=(8, 16), ratios=(1.0,), octaves=(1.0,))
ANCHORS = 16 + 4


def maps(
    classes: int = 2, images: int = 1, per_cell: int = 1, levels: Any = (4, 2)
) -> list[Tensor]:
    kinds = [torch.zeros(images, per_cell * classes, n, n) for n in levels]
    return kinds + [torch.zeros(images, per_cell * 4, n, n) for n in levels]


def targets(*boxes: tuple[float, ...]) -> Tensor:
    return torch.tensor([[*boxes, (-1.0, 0, 0, 0, 0)]])


def loss_of(**options: Any) -> RetinaLoss:
    return RetinaLoss(SIMPLE, 2, RetinaOptions(**options))


# the anchor of row 2, column 1 has its centre at 8, 16 and is 32 wide; a sixteenth to its right
BOX = (1.0, 8 + 2 - 20, 0, 8 + 2 + 20, 32)
OVERLAP = 32 * 32 / (40 * 32)  # the anchor, -8 to 24, lies within; the next one has 0.71


def test_anchors_are_those_of_the_zoo() -> None:
    sides = [16, 8, 4, 2, 1]
    decode = RetinaDecode()
    empty = [torch.zeros(1, 9 * k, n, n) for k in (3, 4) for n in sides]
    boxes, _ = decode(tuple(empty))
    found = Retina().anchors([(n, n) for n in sides])
    xyxy = np.concatenate([found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2], 1)
    np.testing.assert_allclose(xyxy, boxes[0].numpy(), atol=1e-4)
    assert Retina().strides == RETINA_STRIDES


def test_the_decoder_is_that_of_the_zoo() -> None:
    torch.manual_seed(0)
    made = [torch.randn(2, 9 * k, n, n) * 3 for k in (3, 4) for n in (16, 8, 4, 2, 1)]
    boxes, scores = RetinaDecode()(tuple(made))
    named = {str(k): m.numpy() for k, m in enumerate(made)}
    shuffled = dict(sorted(named.items(), key=lambda item: item[1].sum()))
    for found, box, score in zip(Retina().decode(shuffled, (128, 128)), boxes, scores, strict=True):
        np.testing.assert_allclose(found.boxes, box.numpy(), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.scores, score.numpy(), atol=1e-6)


def test_the_terms_by_hand() -> None:
    outputs = maps()
    outputs[0][0, :, 2, 1] = torch.tensor([0.5, -1.0])
    outputs[2][0, :, 2, 1] = torch.tensor([0.05, 0.0, 0.5, 0.0])
    found = loss_of(positive=0.75)(outputs, targets(BOX))
    # deltas 2 / 32 and log(40 / 32); 0.0125 is within beta, what is left of 0.5 is not
    small, large = 0.0625 - 0.05, 0.5 - math.log(1.25)
    assert float(found["box"]) == pytest.approx(small**2 / 2 * 9 + large - 1 / 18)
    p, q = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1))
    own = 0.75 * p**2 * -math.log(1 - p) + 0.25 * (1 - q) ** 2 * -math.log(q)
    rest = NEGATIVES * 2 * 0.75 * 0.25 * LN2
    assert float(found["class"]) == pytest.approx(own + rest, rel=1e-5)
    twice = loss_of(positive=0.75, box=2.0, class_=3.0)(outputs, targets(BOX))
    assert float(twice["box"]) == pytest.approx(2 * float(found["box"]))
    assert float(twice["class"]) == pytest.approx(3 * float(found["class"]))
    # several anchors at 0.5 and more share the loss
    count = int((overlaps() >= 0.5).sum())
    assert 1 < count == len(loss_of().matched_boxes(maps(), targets(BOX))[0])
    several = loss_of()(maps(), targets(BOX))
    wanted = (NEGATIVES * 2 * 0.75 + count * (0.25 + 0.75)) * 0.25 * LN2 / count
    assert float(several["class"]) == pytest.approx(wanted)


def overlaps() -> np.ndarray[Any, Any]:
    """The IoU of every anchor with the box."""
    anchors = SIMPLE.anchors([(4, 4), (2, 2)])
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    area = (np.minimum(high, BOX[3:]) - np.maximum(low, BOX[1:3])).clip(0).prod(1)
    return np.asarray(area / (anchors[:, 2:].prod(1) + 40 * 32 - area))


NEGATIVES = int((overlaps() < 0.4).sum())  # some are between that and 0.5
assert ((overlaps() > 0.4) & (overlaps() < 0.5)).any()


def test_each_box_has_at_least_its_best_anchor() -> None:
    speck = (0.0, 15.0, 15.0, 17.0, 17.0)  # 4 of 1024 pixels
    outputs = [m.requires_grad_() for m in maps()]
    predicted, wanted = loss_of().matched_boxes(outputs, targets(speck))
    assert predicted.tolist() == [[0, 0, 0, 0]]
    predicted.sum().backward()
    assert outputs[2].grad[0, :, 2, 2].tolist() == [1, 1, 1, 1]
    assert wanted[0].tolist() == pytest.approx([0, 0, math.log(2 / 32), math.log(2 / 32)])
    both = targets(speck, (1.0, 14.0, 14.0, 19.0, 19.0))
    assert len(loss_of().matched_boxes(maps(), both)[0]) >= 1


def test_the_best_anchor_of_a_box_is_not_taken_by_a_larger_one() -> None:
    # the anchor at 16, 16 overlaps the large box by more than half, the small one by 9 %
    large, small = (0.0, 0.0, 0.0, 34.0, 34.0), (1.0, 11.0, 11.0, 21.0, 21.0)
    predicted, wanted = loss_of().matched_boxes(maps(), targets(large, small))
    assert any(w[2] == pytest.approx(math.log(10 / 32)) for w in wanted.tolist())
    assert len(predicted) > 1


def test_the_overlap_in_the_place_of_l1() -> None:
    found = loss_of(iou="giou", positive=0.75)(maps(), targets(BOX))
    assert float(found["box"]) == pytest.approx(1 - OVERLAP)


def test_order_of_outputs_number_of_images_and_precision() -> None:
    torch.manual_seed(0)
    outputs = [torch.randn_like(m) for m in maps(3, 2, 9, (16, 8, 4, 2, 1))]
    rows = torch.tensor([[[0.0, 10, 10, 70, 40], [2, 50, 60, 60, 90]], [[1, 3, 3, 9, 9], [-1] * 5]])
    loss = RetinaLoss(Retina(), 3)
    found = loss(tuple(outputs), rows)
    swapped = loss(outputs[::-1], rows)
    twice = loss([torch.cat((m, m)) for m in outputs], torch.cat((rows, rows)))
    half = [m.half().requires_grad_() for m in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss(half, rows)
    sum(narrow.values()).backward()
    assert all(m.grad.isfinite().all() for m in half)
    for name, value in found.items():
        assert torch.equal(value, swapped[name])
        torch.testing.assert_close(value, twice[name])
        torch.testing.assert_close(value, narrow[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"iou": "giou"}, {"beta": 0.0}])
def test_gradients_against_finite_differences(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    loss = loss_of(**options)
    outputs = [torch.randn_like(m).double().requires_grad_() for m in maps()]

    def total(*given: Tensor) -> Tensor:
        return sum(loss(given, targets(BOX, (0.0, 10, 2, 22, 30))).values())  # type: ignore[return-value]

    assert torch.autograd.gradcheck(total, outputs)


@pytest.mark.parametrize("size", [6e4, -6e4])
@pytest.mark.parametrize("iou", ["l1", "giou", "ciou"])
def test_wild_outputs_and_images_without_a_box(size: float, iou: str) -> None:
    for rows in (targets(BOX), targets()):
        outputs = [torch.full_like(m, size).requires_grad_() for m in maps()]
        found = loss_of(iou=iou)(outputs, rows)
        sum(found.values()).backward()
        assert all(v.isfinite() for v in found.values())
        assert all(m.grad.isfinite().all() for m in outputs)
    assert found["box"].item() == 0
    assert found["class"].item() == pytest.approx(2 * ANCHORS * 0.75 * size if size > 0 else 0)


def test_four_classes_take_the_order_of_the_zoo() -> None:
    torch.manual_seed(0)
    outputs = [torch.randn_like(m) for m in maps(4)]
    pairs = SIMPLE.pairs(outputs, lambda m: m.shape)
    assert all(c is outputs[k] and b is outputs[2 + k] for k, (c, b) in enumerate(pairs))


def test_levels_of_one_size_stay_in_order() -> None:
    outputs = maps(3, levels=(2, 1, 1))
    pairs = Retina(strides=(8, 16, 32), ratios=(1.0,), octaves=(1.0,)).pairs(
        outputs, lambda m: m.shape
    )
    assert all(c is outputs[k] and b is outputs[3 + k] for k, (c, b) in enumerate(pairs))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (maps()[:3], "needs 2 class maps of 2 channels and as many box maps of 4"),
        (maps(3), "needs 2 class maps of 2 channels"),
        (maps(images=2), "2 images have targets for 1"),
    ],
)
def test_outputs_of_another_network(outputs: list[Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loss_of()(outputs, targets(BOX))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iou=mse", "loss retinanet: no iou is called 'mse'"),
        ("object=1", "no option of the retinanet loss is called 'object'"),
        ("alpha=2", "alpha=2.0 is not a number from 0 to 1"),
        ("negative=0.6", "negative=0.6 is above positive"),
        ("beta=-1", "beta=-1.0 is not a number at least 0"),
    ],
)
def test_options_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RetinaOptions.parse(text)


def test_labels_are_checked() -> None:
    with pytest.raises(UsageError, match="labelled with class 7; the model has 2"):
        loss_of()(maps(), targets((7.0, 1, 1, 5, 5)))
