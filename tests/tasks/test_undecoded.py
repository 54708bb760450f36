"""Decoded exports train as their raw maps do: the same terms and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evaluate.making import detector
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.evaluate.decoders import DECODERS
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.frontends.normal_form import normalize
from graphopt.fx import to_fx
from graphopt.tasks import task_for
from graphopt.tasks.undecoded import DecodedOptions, DecodedYoloLoss
from graphopt.tasks.yolo import YoloLoss
from graphopt.zoo import export
from graphopt.zoo.decode import YoloDecode

SIZE = (64, 96)
CLASSES = 3
STRIDES = {2: (16, 32), 3: (8, 16, 32)}
BOXES = torch.tensor(
    [
        [[0, 10, 12, 60, 50], [2, 30, 8, 44, 30], [-1, 0, 0, 0, 0]],
        [[1, 0, 0, 20, 20], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]],
    ],
    dtype=torch.float32,
)


def decoder_of(name: str) -> AnchorMaps:
    return DECODERS.find(name)()  # type: ignore[return-value]


def raw_maps(decoder: AnchorMaps, spread: float = 3.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    made = []
    for stride, anchors in zip(STRIDES[len(decoder.anchors)], decoder.anchors, strict=True):
        shape = (2, len(anchors) * (5 + CLASSES), SIZE[0] // stride, SIZE[1] // stride)
        made.append(spread * torch.randn(shape, generator=random).clamp(-2, 2))
    return made


def decoded(maps: list[Tensor], decoder: AnchorMaps) -> Tensor:
    """As exports do it: the zoo's decoding, and YOLOv5's by its formula."""
    strides = STRIDES[len(decoder.anchors)]
    if not decoder.squared:
        return YoloDecode(decoder.anchors, strides, decoder.scale_xy)(tuple(maps))
    rows = []
    for raw, anchors, stride in zip(maps, decoder.anchors, strides, strict=True):
        n, _, h, w = raw.shape
        p = raw.view(n, len(anchors), 5 + CLASSES, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        xy = (p[..., :2] * 2 - 0.5 + torch.stack((x, y), -1)) * stride
        wh = (p[..., 2:4] * 2) ** 2 * torch.tensor(anchors)[:, None, None]
        rows.append(torch.cat((xy, wh, p[..., 4:]), -1).reshape(n, -1, 5 + CLASSES))
    return torch.cat(rows, 1)


def loss_of(name: str, **options: Any) -> DecodedYoloLoss:
    decoder = decoder_of(name)
    rows = sum(
        len(a) * (SIZE[0] // s) * (SIZE[1] // s)
        for a, s in zip(decoder.anchors, STRIDES[len(decoder.anchors)], strict=True)
    )
    return DecodedYoloLoss(SIZE, rows, CLASSES, DecodedOptions(of=name, **options))


@pytest.mark.parametrize(
    "options", [{}, {"iou": "mse", "objectness": "focal"}], ids=["usual", "other"]
)
@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov4", "yolov5"])
def test_terms_and_gradients_are_those_of_the_raw_maps(name: str, options: dict[str, Any]) -> None:
    decoder = decoder_of(name)
    found = []
    for by_rows in (False, True):
        maps = [m.requires_grad_() for m in raw_maps(decoder)]
        loss = loss_of(name, **options)
        terms = (
            loss(decoded(maps, decoder), BOXES)
            if by_rows
            else YoloLoss(decoder, SIZE, CLASSES, loss.raw.options)(maps, BOXES)
        )
        sum(terms.values()).backward()  # type: ignore[union-attr]
        found.append((terms, [m.grad for m in maps]))
    for term, wanted in found[0][0].items():
        torch.testing.assert_close(found[1][0][term], wanted, rtol=1e-4, atol=1e-6)
    for mine, wanted in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=2e-3, atol=2e-4 * float(wanted.abs().max()))


def test_the_raw_maps_come_back() -> None:
    decoder = decoder_of("yolov5")
    maps = raw_maps(decoder)
    for mine, wanted in zip(loss_of("yolov5").maps(decoded(maps, decoder)), maps, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-3)


def test_matched_boxes_are_those_of_the_raw_maps() -> None:
    decoder = decoder_of("yolov4")
    maps, loss = raw_maps(decoder), loss_of("yolov4")
    found = loss.matched_boxes(decoded(maps, decoder), BOXES)
    for mine, wanted in zip(found, loss.raw.matched_boxes(maps, BOXES), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-3)


def test_what_is_certain_stays_finite() -> None:
    decoder = decoder_of("yolov5")
    maps = [m.requires_grad_() for m in raw_maps(decoder, spread=60.0)]
    terms = loss_of("yolov5")(decoded(maps, decoder), BOXES)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(bool(m.grad.isfinite().all()) for m in maps)


def test_anchors_of_ones_own() -> None:
    text = "4x4|8x8|16x16|20x20|30x30|40x40"
    options = DecodedOptions.parse(f"of=yolov3-tiny anchors={text} box=3")
    assert options.decoder().anchors[1] == ((20, 20), (30, 30), (40, 40))
    assert options.box == 3


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4"])
def test_the_zoos_decoded_exports(name: str) -> None:
    """Through the FX view, against the raw export of the same weights."""
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = []
    for decode in (False, True):
        graph = normalize(
            export(name, width=0.125, input_size=64, classes=CLASSES, untrained=True, decode=decode)
        )
        setup = task_for(
            graph, loss=f"of={name}" if decode else "", decoder=None if decode else name
        )
        view = to_fx(graph).eval()
        terms = setup.loss(view(images), BOXES[:1].clamp_max(64))
        sum(terms.values()).backward()
        weight = next(p for p in view.parameters() if p.dim() == 4)
        found.append((setup, terms, weight.grad))
    assert [f[0].classes for f in found] == [CLASSES, CLASSES]
    for term, wanted in found[0][1].items():
        torch.testing.assert_close(found[1][1][term], wanted, rtol=1e-4, atol=1e-6)
    largest = float(found[0][2].abs().max())
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-3, atol=1e-3 * largest)


def test_rows_in_another_order() -> None:
    decoder = decoder_of("yolov5")
    rows = decoded(raw_maps(decoder), decoder)
    with pytest.raises(UsageError, match="not in the order scale, anchor, row, column"):
        loss_of("yolov5")(rows.flip(1), BOXES)
    with pytest.raises(UsageError, match="or not decoded by yolov3"):
        loss_of("yolov3")(rows, BOXES)  # YOLOv5's centres leave their cells


@pytest.mark.parametrize(
    ("outputs", "loss", "message"),
    [
        ("1,252,8 a", "", r"by what formula: write it into the loss, of=yolov5"),
        ("1,252,8 a", "of=yolov8", "no formula is called 'yolov8'"),
        (
            "1,252,8 a",
            "of=yolov3-tiny",
            "has 60 boxes for inputs of 64 x 64, the network puts out 252",
        ),
        ("1,252,8 a", "of=yolov5 anchors=1x2", "1 anchors for 3 scales"),
        ("1,252,8 a", "of=yolov5 boxes=2", "no option of the yolo loss is called 'boxes'"),
        ("1,252,8 a", "of=yolov5 scale-xy=a", "cannot be read"),
    ],
)
def test_refused(outputs: str, loss: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task_for(detector(outputs), decoder="decoded", loss=loss)


def test_other_outputs_than_the_loss_was_made_for() -> None:
    with pytest.raises(UsageError, match=r"needs rows \(images, 252, 8\), not \(1, 10, 8\)"):
        task_for(detector("1,252,8 a"), loss="of=yolov5").loss(torch.zeros(1, 10, 8), BOXES[:1])
