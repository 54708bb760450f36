"""The loss of YOLO's maps: every term by hand, options, gradients, precision, bad labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.anchors import Yolov3Tiny, Yolov4, Yolov5
from graphopt.tasks.heads import heads_of
from graphopt.tasks.matching import Matches
from graphopt.tasks.yolo import YoloLoss, YoloOptions

LN2 = math.log(2)
ONE_EACH = Yolov3Tiny((((16, 16),), ((48, 48),)))
TWO_EACH = Yolov3Tiny((((16, 16), (17, 17)), ((48, 48), (50, 50))))
PLAIN: dict[str, Any] = {"box": 1, "object": 416**2 / 64**2, "class_": 80, "threshold": 0.5}
# a box of 16 x 16 in cell (column 1, row 1) of stride 16, a quarter and three quarters into it
BOX = (1.0, 12.0, 20.0, 28.0, 36.0)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def loss_of(decoder: Yolov3Tiny = ONE_EACH, classes: int = 2, **options: Any) -> YoloLoss:
    return YoloLoss(decoder, (64, 64), classes, YoloOptions(**{**PLAIN, **options}))


def maps(classes: int = 2, anchors: int = 1, images: int = 1) -> list[Tensor]:
    channels = anchors * (5 + classes)
    return [torch.zeros(images, channels, n, n) for n in (4, 2)]


def targets(*boxes: tuple[float, ...]) -> Tensor:
    rows = [*boxes, (-1.0, 0.0, 0.0, 0.0, 0.0)]
    return torch.tensor([rows])


def value(terms: dict[str, Tensor], name: str) -> float:
    return float(terms[name].detach())


def test_the_box_term_by_hand() -> None:
    # predicted 16..32 squared against 12..28 x 20..36: they share 12 x 12
    overlap = 144 / (512 - 144)
    distance = (4**2 + 4**2) / (20**2 + 20**2)
    found = {name: loss_of(iou=name)(maps(), targets(BOX)) for name in ("iou", "diou", "ciou")}
    assert value(found["iou"], "box") == pytest.approx(1 - overlap)
    assert value(found["diou"], "box") == pytest.approx(1 - overlap + distance)
    assert value(found["ciou"], "box") == pytest.approx(1 - overlap + distance)
    giou = overlap - (400 - 368) / 400
    assert value(loss_of(iou="giou")(maps(), targets(BOX)), "box") == pytest.approx(1 - giou)
    mse = (0.25**2 + 0.25**2) * (2 - 256 / 4096)
    assert value(loss_of(iou="mse")(maps(), targets(BOX)), "box") == pytest.approx(mse)


def test_the_objectness_by_hand() -> None:
    outputs = maps()
    outputs[0][:, 4] = -2.0
    outputs[0][0, 4, 1, 1] = 1.0
    outputs[1][:, 4] = -3.0
    fine = (softplus(-1) + 15 * softplus(-2)) / 16
    found = loss_of()(outputs, targets(BOX))
    assert value(found, "object") == pytest.approx(4 * fine + softplus(-3))
    found = loss_of(balance="1|0.5", object=3 * PLAIN["object"])(outputs, targets(BOX))
    assert value(found, "object") == pytest.approx(3 * (fine + 0.5 * softplus(-3)))


def test_the_class_term_by_hand() -> None:
    outputs = maps()
    outputs[0][0, 5:, 1, 1] = torch.tensor([0.5, -1.0])
    found = value(loss_of()(outputs, targets(BOX)), "class")
    assert found == pytest.approx(softplus(0.5) + softplus(1))
    smooth = value(loss_of(smoothing=0.2)(outputs, targets(BOX)), "class")
    first = 0.9 * softplus(0.5) + 0.1 * softplus(-0.5)
    assert smooth == pytest.approx(first + 0.9 * softplus(1) + 0.1 * softplus(-1))


def test_one_class_is_trained_too_and_not_smoothed() -> None:
    outputs = maps(classes=1)
    outputs[0][0, 5, 1, 1] = -1.0
    found = loss_of(classes=1, smoothing=0.2)(outputs, targets((0.0, *BOX[1:])))
    assert value(found, "class") == pytest.approx(softplus(1))


def test_the_defaults() -> None:
    found = YoloLoss(ONE_EACH, (64, 64), 2)(maps(), targets(BOX))
    assert value(found, "class") == pytest.approx(110 * 2 * LN2 / 80)
    assert value(found, "box") == pytest.approx(10 * (1 - 144 / 368 + 32 / 800))
    assert value(found, "object") == pytest.approx(64 * 5 * LN2 * 64**2 / 416**2)


def test_a_cell_counts_as_much_in_images_of_any_size() -> None:
    losses = []
    for cells in (4, 8):
        loss = YoloLoss(ONE_EACH, (16 * cells, 16 * cells), 2)
        outputs = [torch.full((1, 7, n, n), -20.0) for n in (cells, cells // 2)]
        outputs[0][0, 4, 3, 2] = 5.0
        losses.append(value(loss(outputs, targets()), "object"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_focal_objectness_by_hand() -> None:
    outputs = maps()
    outputs[0][0, 4, 1, 1] = 1.0
    p = 1 / (1 + math.exp(-1))
    fine = (0.25 * (1 - p) ** 2 * softplus(-1) + 15 * 0.75 * 0.25 * LN2) / 16
    found = loss_of(objectness="focal", balance="1|0")(outputs, targets(BOX))
    assert value(found, "object") == pytest.approx(fine)
    sharp = loss_of(objectness="focal", balance="1|0", alpha=0.4, gamma=1)(outputs, targets(BOX))
    fine = (0.4 * (1 - p) * softplus(-1) + 15 * 0.6 * 0.5 * LN2) / 16
    assert value(sharp, "object") == pytest.approx(fine)


def test_objectness_towards_the_overlap() -> None:
    outputs = maps()
    outputs[0][0, 4, 1, 1] = 1.0
    overlap = 144 / 368
    fine = (overlap * softplus(-1) + (1 - overlap) * softplus(1) + 15 * LN2) / 16
    found = loss_of(aim="iou", balance="1|0")(outputs, targets(BOX))
    assert value(found, "object") == pytest.approx(fine)


def test_good_boxes_without_a_match_are_ignored() -> None:
    # the second anchor of the cell is not matched and predicts the box but for its place
    loss = loss_of(TWO_EACH, threshold=0.95, balance="1|0", ignore=0.7)
    centred = targets((1.0, 16.0, 16.0, 32.0, 32.0))
    outputs = maps(anchors=2)
    outputs[0][0, 7 + 4, 1, 1] = 3.0
    assert value(loss(outputs, centred), "object") == pytest.approx(31 * LN2 / 32)
    counted = loss_of(TWO_EACH, threshold=0.95, balance="1|0", ignore=1)
    fine = (31 * LN2 + softplus(3)) / 32
    assert value(counted(outputs, centred), "object") == pytest.approx(fine)
    # 256 of 289: at 0.9 it is not good enough
    strict = loss_of(TWO_EACH, threshold=0.95, balance="1|0", ignore=0.9)
    assert value(strict(outputs, centred), "object") == pytest.approx(fine)


def test_what_is_ignored_is_ignored_by_image() -> None:
    loss = loss_of(TWO_EACH, threshold=0.95, balance="1|0")
    both = torch.cat((targets((1.0, 16.0, 16.0, 32.0, 32.0)), targets((-1.0, 0, 0, 0, 0))))
    outputs = maps(anchors=2, images=2)
    outputs[0][:, 7 + 4, 1, 1] = 3.0
    fine = (31 + 31) * LN2 + softplus(3)  # on the second image it is nothing but wrong
    assert value(loss(outputs, both), "object") == pytest.approx(fine / 64)


def test_sums_over_images_as_in_darknet() -> None:
    two = torch.cat((targets(BOX, BOX)[:, :2], targets(BOX)))
    outputs = maps(images=2)
    found = loss_of(reduce="image", object=1)(outputs, two)
    assert value(found, "object") == pytest.approx(20 * LN2)
    assert value(found, "class") == pytest.approx(80 * 2 * LN2)
    overlap, distance = 144 / 368, 32 / 800
    assert value(found, "box") == pytest.approx(1 - overlap + distance)


@pytest.mark.parametrize("decoder", [Yolov3Tiny(), Yolov4(), Yolov5()], ids=str)
def test_predicted_boxes_are_those_of_the_decoder(decoder: Any) -> None:
    height, width = 64, 160
    strides = (8, 16, 32)[-len(decoder.anchors) :]
    torch.manual_seed(0)
    # cells that are wider than high: the strides of x and y are told apart
    outputs = [torch.randn(2, 3 * 7, height // s, width // s - 1) * 2 for s in strides]
    heads = heads_of(outputs, decoder, (height, width), 2)
    found = torch.cat([h.all_boxes() for h in heads], 1)
    named = {str(k): m.numpy() for k, m in enumerate(outputs)}
    wanted = [torch.from_numpy(c.boxes).float() for c in decoder.decode(named, (height, width))]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-3)
    # and those at matched places are the same ones
    row, column = torch.tensor([1, 0]), torch.tensor([3, 2])
    at = Matches(torch.tensor([0, 1]), torch.tensor([2, 0]), row, column, row)
    head = heads[0]
    some = head.boxes_at(head.units(head.at(at)), at)
    cells = head.scale.cells
    place = (at.anchor * cells[0] + row) * cells[1] + column
    torch.testing.assert_close(some, head.all_boxes()[at.image, place])


def test_a_rectangular_input_has_its_loss_where_the_box_is() -> None:
    # 16 x 16 in cells of 16 pixels, row 1, column 6; maps of 4 x 8 and 2 x 4
    loss = YoloLoss(ONE_EACH, (64, 128), 2, YoloOptions(**PLAIN))
    outputs = [torch.zeros(1, 7, 4, 8), torch.zeros(1, 7, 2, 4)]
    perfect = targets((1.0, 6.5 * 16 - 8, 1.5 * 16 - 8, 6.5 * 16 + 8, 1.5 * 16 + 8))
    assert value(loss(outputs, perfect), "box") == pytest.approx(0, abs=1e-6)
    outputs[0][0, 5:, 1, 6] = torch.tensor([-20.0, 20.0])
    assert value(loss(outputs, perfect), "class") == pytest.approx(0, abs=1e-6)


def test_neighbouring_cells_are_for_the_boxes_that_reach_over() -> None:
    rows = targets((1.0, 12.0, 12.0, 28.0, 28.0))  # a quarter into its cell, both ways
    five = Yolov5(ONE_EACH.anchors, (2.0, 2.0))
    counts = [
        len(loss.matched_boxes(maps(), rows)[0])
        for loss in (loss_of(ratio=1.5), loss_of(five, ratio=1.5))  # type: ignore[arg-type]
    ]
    assert counts == [1, 3]
    assert len(loss_of(five, match="iou").matched_boxes(maps(), rows)[0]) == 1  # type: ignore[arg-type]


# --- what it does not depend on -------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"iou": "mse", "reduce": "image"},
    {"objectness": "focal", "aim": "iou", "match": "shape", "iou": "giou"},
]


def random_batch(
    decoder: Any, classes: int = 3, images: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(1)
    made = [
        torch.randn(images, len(a) * (5 + classes), n, n, dtype=dtype)
        for a, n in zip(decoder.anchors, (8, 4, 2), strict=False)
    ]
    low = torch.rand(images, 5, 2) * 40
    boxes = torch.cat((low, low + 3 + torch.rand_like(low) * 20), -1)
    kinds = torch.randint(0, classes, (images, 5, 1)).float()
    rows = torch.cat((kinds, boxes), -1)
    rows[1] = -1
    return made, rows


@pytest.mark.parametrize("options", OPTIONS)
def test_order_of_outputs_and_number_of_images(options: dict[str, Any]) -> None:
    loss = YoloLoss(Yolov4(), (64, 64), 3, YoloOptions(**options))
    outputs, rows = random_batch(Yolov4())
    found = loss(tuple(outputs), rows)
    swapped = loss(outputs[::-1], rows)
    twice = loss([torch.cat((m, m)) for m in outputs], torch.cat((rows, rows)))
    padded = loss(outputs, torch.cat((torch.full_like(rows, -1), rows), 1))
    for name in ("box", "object", "class"):
        assert torch.equal(found[name], swapped[name])
        torch.testing.assert_close(found[name], twice[name])
        torch.testing.assert_close(found[name], padded[name])


@pytest.mark.parametrize("decoder", [Yolov4(), Yolov5()], ids=str)
@pytest.mark.parametrize("options", [{"iou": "diou"}, *OPTIONS[1:2], {"iou": "iou"}])
def test_gradients_against_finite_differences(decoder: Any, options: dict[str, Any]) -> None:
    loss = YoloLoss(decoder, (64, 64), 1, YoloOptions(**options))
    outputs, rows = random_batch(decoder, classes=1, images=2, dtype=torch.float64)
    rows[..., 0] = torch.where(rows[..., 0] > 0, 0, rows[..., 0])
    for k, each in enumerate(outputs):

        def total(x: Tensor, k: int = k) -> Tensor:
            return sum(loss([*outputs[:k], x, *outputs[k + 1 :]], rows).values())  # type: ignore[return-value]

        assert torch.autograd.gradcheck(total, (each.requires_grad_(),), fast_mode=True)
        each.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    loss = YoloLoss(Yolov4(), (64, 64), 3)
    outputs, rows = random_batch(Yolov4())
    half = [m.to(dtype).requires_grad_() for m in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half, rows)
    wanted = loss([m.detach().float() for m in half], rows)
    for name, each in found.items():
        assert each.dtype == torch.float32
        assert torch.equal(each, wanted[name])
    sum(found.values()).backward()
    assert all(m.grad.dtype == dtype and m.grad.isfinite().all() for m in half)


@pytest.mark.parametrize("decoder", [Yolov4(), Yolov5()], ids=str)
@pytest.mark.parametrize("size", [0.0, 300.0, -300.0, 6e4])
def test_wild_outputs_have_finite_losses_and_gradients(decoder: Any, size: float) -> None:
    for options in OPTIONS:
        loss = YoloLoss(decoder, (64, 64), 3, YoloOptions(**options))
        outputs, rows = random_batch(decoder)
        wild = [torch.full_like(m, size).requires_grad_() for m in outputs]
        total = sum(loss(wild, rows).values())
        total.backward()
        assert total.isfinite()
        assert all(m.grad.isfinite().all() for m in wild)


@pytest.mark.parametrize("rows", [0, 3])
def test_images_without_a_box(rows: int) -> None:
    outputs = [m.requires_grad_() for m in maps(images=2)]
    found = loss_of()(outputs, torch.full((2, rows, 5), -1.0))
    assert (value(found, "box"), value(found, "class")) == (0, 0)
    assert value(found, "object") == pytest.approx(5 * LN2)
    sum(found.values()).backward()
    assert all(m.grad.isfinite().all() for m in outputs)


# --- matched places -------------------------------------------------------------------------------


def test_matched_boxes_are_those_of_the_same_places_for_every_network() -> None:
    loss = YoloLoss(Yolov4(), (64, 64), 3)
    outputs, rows = random_batch(Yolov4())
    predicted, wanted = loss.matched_boxes(outputs, rows)
    others, again = loss.matched_boxes([m + 1 for m in outputs], rows)
    assert predicted.shape == wanted.shape == others.shape
    assert torch.equal(wanted, again)
    assert not torch.equal(predicted, others)
    assert len(wanted) >= 10


def test_matched_boxes_by_hand() -> None:
    predicted, wanted = loss_of().matched_boxes(maps(), targets((1.0, 12.0, 20.0, 28.0, 40.0)))
    assert predicted.tolist() == [[0.5, 0.5, 0, 0]]
    log = math.log(20 / 16)
    assert wanted[0].tolist() == pytest.approx([0.25, 0.875, 0, log])
    outputs = maps()
    outputs[0][0, 2, 1, 1] = 0.75
    outputs[0].requires_grad_()
    predicted, wanted = loss_of().matched_boxes(outputs, targets(BOX))
    predicted.sum().backward()
    assert outputs[0].grad[0, :, 1, 1].tolist() == [0.25, 0.25, 1, 1, 0, 0, 0]
    assert not wanted.requires_grad
    assert loss_of().matched_boxes(outputs, targets(BOX))[0][0].tolist() == [0.5, 0.5, 0.75, 0]


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(2.0, 1, 1, 5, 5)], "labelled with class 2; the model has 2"),
        ([(-2.0, 1, 1, 5, 5)], "labelled with class -2"),
        ([(0.0, 1, 1, math.nan, 5)], "a labelled box is not finite"),
        ([(math.nan, 1, 1, 5, 5)], "a labelled box is not finite"),
        ([(0.0, 1, 1, 5, 5, 5)], r"targets have shape \(1, 1, 6\)"),
    ],
)
def test_labels_that_cannot_be_meant(rows: list[tuple[float, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loss_of()(maps(), torch.tensor([rows]))


def test_outputs_of_another_network() -> None:
    with pytest.raises(UsageError, match="needs 2 maps"):
        loss_of()(maps()[:1], targets(BOX))
    with pytest.raises(UsageError, match="a map has 8 channels; 1 anchors and 2 classes need 7"):
        loss_of()(maps(classes=3), targets(BOX))
    with pytest.raises(UsageError, match="2 images have targets for 1"):
        loss_of()(maps(images=2), targets(BOX))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boxes=2", "no option of the yolo loss is called 'boxes'; did you mean box"),
        ("iou=siou", "loss yolo: no iou is called 'siou'"),
        ("box=much", "'much' is not a float"),
        ("box=-1", "box=-1.0 is not a number at least 0"),
        ("class=nan", "class=nan is not a number"),
        ("smoothing=2", "smoothing=2.0 is not a number from 0 to 1"),
        ("match=best", "no match is called 'best'"),
        ("objectness=mse", "no objectness is called"),
        ("aim=two", "no aim is called"),
        ("reduce=sum", "no reduce is called"),
        ("box", "write option=value"),
    ],
)
def test_options_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        YoloOptions.parse(text)


@pytest.mark.parametrize("balance", ["1", "1|2|3", "1|x"])
def test_a_balance_for_other_maps(balance: str) -> None:
    with pytest.raises(UsageError, match=r"write 2 numbers, finest map first, as in 4\|1"):
        loss_of(balance=balance)


def test_options_as_text() -> None:
    found = YoloOptions.parse("box=0.05 object=1.0 class=0.5 iou=giou objectness=focal balance=4|1")
    assert (found.box, found.object, found.class_, found.iou) == (0.05, 1.0, 0.5, "giou")
    assert found.balances(2) == (4.0, 1.0)
