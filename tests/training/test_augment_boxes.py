"""Augmentation with boxes: painted pixels and boxes stay together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.training import Augment, Objective, Recipe, Terms, Trainer, augment
from graphopt.training.hooks import Moment
from graphopt.training.moving import LEAST_VISIBLE, largest, moved

HEIGHT, WIDTH = 40, 64
IMAGES, OBJECTS = 4, 2


def drawing(seed: int) -> tuple[Tensor, Tensor]:
    """Images with a channel per object of the whole batch, whose class is its channel."""
    rng = np.random.default_rng(seed)
    images = torch.zeros(IMAGES, IMAGES * OBJECTS, HEIGHT, WIDTH)
    boxes = torch.zeros(IMAGES, 4 * OBJECTS, 5)
    boxes[..., 0] = -1
    for image in range(IMAGES):
        for k in range(OBJECTS):
            kind = image * OBJECTS + k
            w, h = (int(v) for v in rng.integers(8, 20, 2))
            x, y = int(rng.integers(0, WIDTH - w + 1)), int(rng.integers(0, HEIGHT - h + 1))
            images[image, kind, y : y + h, x : x + w] = 1
            boxes[image, k] = torch.tensor([kind, x, y, x + w, y + h])
    return images, boxes


def covered(boxes: Tensor, grow: float) -> Tensor:
    """Which pixels (height, width) have their middle in one of the boxes, grown on all sides."""
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    low, high = boxes[:, 1:3] - grow, boxes[:, 3:] + grow
    column = (x >= low[:, :1]) & (x <= high[:, :1])
    row = (y >= low[:, 1:]) & (y <= high[:, 1:])
    return (row[:, :, None] & column[:, None]).any(0)


WORDS = ["flip", "flip=1", "shift=0.4", "zoom=0.5", "mosaic=1", "mosaic", "flip shift=0.3 zoom=0.4"]


@pytest.mark.parametrize(
    "text", [*WORDS, "mosaic flip shift=0.2 zoom=0.3", "mosaic flip shift=0.3"]
)
@pytest.mark.parametrize("seed", range(8))
def test_painted_pixels_lie_in_the_boxes_and_boxes_hold_painted_pixels(
    text: str, seed: int
) -> None:
    images, boxes = drawing(seed)
    made, found = Augment.parse(text)(images, torch.Generator().manual_seed(seed), boxes)
    assert made.shape == images.shape
    assert found.shape == boxes.shape
    assert (made - images).abs().max() > 0.5 or text in ("flip", "mosaic")
    # what is interpolated is half painted on the very edge of a box
    slack = 0.0 if "zoom" not in text and "mosaic" not in text else 0.02
    seen = 0
    for image in range(IMAGES):
        for kind in range(IMAGES * OBJECTS):
            own = found[image][found[image, :, 0] == kind]
            seen += len(own)
            painted = made[image, kind] > 0.5
            if not len(own):
                assert painted.sum() <= LEAST_VISIBLE * 20 * 20 * 1.5**2 + 20
            else:
                # where an object of a mosaic was dropped, a sliver of it may be left
                rest = (painted & ~covered(own, slack)).sum()
                assert rest <= ("mosaic" in text) * LEAST_VISIBLE * 20 * 20 * 1.5**2
                assert painted[covered(own, -1.0)].all()
    assert seen >= IMAGES


@pytest.mark.parametrize("text", WORDS)
def test_boxes_stay_on_the_image_and_what_is_dropped_is_marked(text: str) -> None:
    images, boxes = drawing(0)
    _, found = Augment.parse(text)(images, torch.Generator().manual_seed(5), boxes)
    kept = found[..., 0] >= 0
    assert (found[kept][:, 1:] >= 0).all()
    assert (found[kept][:, 3] <= WIDTH).all()
    assert (found[kept][:, 4] <= HEIGHT).all()
    assert (found[~kept] == torch.tensor([-1.0, 0, 0, 0, 0])).all()


def test_nothing_to_do_leaves_boxes_as_they_are() -> None:
    images, boxes = drawing(0)
    made, found = Augment.parse("none")(images, torch.Generator(), boxes)
    assert torch.equal(made, images)
    assert torch.equal(found, boxes)
    made, found = Augment.parse("contrast=0.3 brightness=0.2")(images, torch.Generator(), boxes)
    assert torch.equal(found, boxes)


def test_no_object_appears_twice() -> None:
    images = torch.zeros(16, 1, HEIGHT, WIDTH)
    images[:, :, :8, :8] = 1  # in the corner, which repeated borders would smear
    boxes = torch.tensor([[[0.0, 0, 0, 8, 8]]]).expand(16, -1, -1)
    for text in ("shift=0.3", "shift=0.3 zoom=0.5"):
        given = Augment.parse(text), torch.Generator().manual_seed(0)
        made, _ = given[0](images, given[1], boxes)
        assert (made > 0.5).sum((1, 2, 3)).max() <= 64 * 1.5**2 * 4
        smeared = given[0](images, torch.Generator().manual_seed(0))
        assert (smeared > 0.5).sum() > (made > 0.5).sum()
        fill = images.mean()
        assert ((made - fill).abs() < 1e-6).flatten(1).any(1).sum() > 12


def test_with_and_without_boxes_the_same_is_drawn() -> None:
    images, boxes = drawing(0)
    for text in ("flip", "mosaic", "contrast=0.2 brightness=0.1 mosaic flip"):
        alone = Augment.parse(text)(images, torch.Generator().manual_seed(7))
        made, _ = Augment.parse(text)(images, torch.Generator().manual_seed(7), boxes)
        assert torch.equal(alone, made)
        other, _ = Augment.parse(text)(images, torch.Generator().manual_seed(8), boxes)
        assert not torch.equal(other, made)


def test_channels_last() -> None:
    images, boxes = drawing(0)
    images = images[:, :3]
    for text in ("flip shift=0.2", "mosaic zoom=0.3 flip hue=0.1"):
        made, found = Augment.parse(text)(images, torch.Generator().manual_seed(1), boxes)
        last, again = Augment.parse(text)(
            images.permute(0, 2, 3, 1), torch.Generator().manual_seed(1), boxes
        )
        assert torch.equal(last.permute(0, 3, 1, 2), made)
        assert torch.equal(found, again)


# --- moving ---------------------------------------------------------------------------------------


def test_moved_by_hand() -> None:
    boxes = torch.tensor([[[2.0, 1, 2, 5, 6], [0, 10, 0, 20, 10], [-1, 1, 2, 5, 6]]])
    low, high = torch.tensor([[0.0, 0]]), torch.tensor([[11.0, 20]])
    scale, offset = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 8.0]])
    found = moved(boxes, scale, offset, low, high)
    # the second lies from 21 on, the third is none
    assert found.tolist() == [[[2, 3, 2, 11, 6], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]]


@pytest.mark.parametrize(("x", "stays"), [(45.9, True), (46.1, False)])
def test_a_tenth_has_to_be_seen(x: float, stays: bool) -> None:
    boxes = torch.tensor([[[0.0, x, 0, x + 40, 20]]])
    one = torch.ones(1, 2)
    found = moved(boxes, one, 0 * one, 0 * one, torch.tensor([[50.0, 20.0]]))
    assert bool(found[0, 0, 0] == 0) == stays


def test_less_than_a_pixel_is_dropped() -> None:
    boxes = torch.tensor([[[0.0, 1, 1, 3, 9]]])
    one = torch.ones(1, 2)
    for factor, stays in ((0.51, True), (0.49, False)):
        found = moved(boxes, factor * one, 0 * one, 0 * one, 20 * one)
        assert bool(found[0, 0, 0] == 0) == stays


def test_the_largest_stay() -> None:
    boxes = torch.tensor([[[0.0, 0, 0, 2, 2], [-1, 0, 0, 9, 9], [1, 0, 0, 3, 3], [2, 0, 0, 1, 1]]])
    assert largest(boxes, 2)[0, :, 0].tolist() == [1, 0]
    assert largest(boxes, 4)[0, :, 0].tolist() == [1, 0, 2, -1]


def test_a_mosaic_of_more_boxes_than_there_is_room_for_keeps_the_largest() -> None:
    images, boxes = drawing(3)
    _, every = Augment.parse("mosaic=1")(images, torch.Generator().manual_seed(0), boxes)
    _, some = Augment.parse("mosaic=1")(images, torch.Generator().manual_seed(0), boxes[:, :2])
    for image in range(IMAGES):
        sizes = (every[image, :, 3:] - every[image, :, 1:3]).prod(1)
        wanted = every[image][sizes.argsort(descending=True, stable=True)[:2]]
        assert torch.equal(some[image], wanted)


def test_a_mosaic_fills_its_quarters() -> None:
    # what lay beside an image would be its border, smeared: here an object without a box
    images = torch.zeros(IMAGES, 1, HEIGHT, WIDTH)
    images[..., :6] = 1
    images[..., 4:, -8:] = 1
    rows = [[0.0, 0, 0, 6, HEIGHT], [0.0, WIDTH - 8, 4, WIDTH, HEIGHT]] + [[-1.0, 0, 0, 0, 0]] * 6
    boxes = torch.tensor([rows] * IMAGES)
    for seed in range(5):
        made, found = Augment.parse("mosaic=1")(images, torch.Generator().manual_seed(seed), boxes)
        for image, own in zip(made, found, strict=True):
            slivers = (image[0] > 0.5) & ~covered(own[own[:, 0] >= 0], 0.02)
            assert slivers.sum() <= 4 * 2 * HEIGHT  # of dropped ones, below a tenth of 8 pixels


def test_the_first_quarter_of_a_mosaic_is_the_image_itself() -> None:
    images = torch.arange(8.0).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    made = Augment.parse("mosaic=1")(images, torch.Generator().manual_seed(0))
    assert made[:, 0, 0, 0].tolist() == list(range(8))
    others = torch.stack((made[:, 0, 0, -1], made[:, 0, -1, 0], made[:, 0, -1, -1]))
    assert len(others.unique()) > 4
    assert all(not torch.equal(a, b) for a, b in zip(others, others.roll(1, 0), strict=True))


def test_the_share_of_mosaics() -> None:
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = Augment.parse("mosaic=0.3")(images, torch.Generator().manual_seed(0))
    changed = (made != images).flatten(1).any(1).sum()
    assert 10 < changed < 30
    assert (Augment.parse("mosaic=1")(images, torch.Generator()) != images).flatten(1).any(1).all()


# --- colours --------------------------------------------------------------------------------------


def coloured() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chroma(images: Tensor) -> Tensor:
    return images - images.mean(1, keepdim=True)


def test_hue_turns_colours_around_grey() -> None:
    images = coloured()
    made = Augment.parse("hue=0.3")(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.mean(1), images.mean(1))
    torch.testing.assert_close(chroma(made).norm(dim=1), chroma(images).norm(dim=1))
    assert (made - images).abs().max() > 0.1
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(Augment.parse("hue=1 saturation=1")(grey, torch.Generator()), grey)


def test_a_third_of_the_circle_turns_red_into_green(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_drawn", lambda images, _: images.new_full((len(images),), 1 / 3))
    images = coloured()
    made = Augment.parse("hue=1")(images, torch.Generator())
    torch.testing.assert_close(made, images.roll(1, 1))
    made = Augment.parse("saturation=0.6")(images, torch.Generator())
    torch.testing.assert_close(chroma(made), 1.2 * chroma(images))


def test_saturation_within_its_share() -> None:
    images = coloured()
    made = Augment.parse("saturation=0.5")(images, torch.Generator().manual_seed(0))
    ratio = chroma(made).flatten(1).norm(dim=1) / chroma(images).flatten(1).norm(dim=1)
    assert (ratio > 0.5).all()
    assert (ratio < 1.5).all()
    assert ratio.std() > 0.1
    torch.testing.assert_close(made.mean(1), images.mean(1))


def test_colours_are_for_three_channels() -> None:
    grey = coloured()[:, :1]
    assert torch.equal(Augment.parse("hue=0.5 saturation=0.5")(grey, torch.Generator()), grey)


@pytest.mark.parametrize("text", ["hue=2", "mosaic=-1", "saturation=much", "mosaics"])
def test_refused(text: str) -> None:
    with pytest.raises(UsageError, match="number from 0 to 1|did you mean mosaic"):
        Augment.parse(text)


# --- without boxes: what it always was ------------------------------------------------------------


def test_draws_are_what_they_were() -> None:
    images = coloured()
    drawn = torch.Generator().manual_seed(11)
    mirror, down, right = (torch.rand(6, generator=drawn) * 2 - 1 for _ in range(3))
    made = Augment.parse("flip shift=0.25")(images, torch.Generator().manual_seed(11))
    for k in range(6):
        columns = np.arange(8)[::-1] if mirror[k] < 0 else np.arange(8)
        columns = np.clip(columns + round(float(right[k] * 2)), 0, 7)
        rows = np.clip(np.arange(8) + round(float(down[k] * 2)), 0, 7)
        assert torch.equal(made[k], images[k][:, rows][:, :, columns])


def test_anything_else_comes_back() -> None:
    whole = torch.ones(2, 3, 4, 4, dtype=torch.uint8)
    flat = torch.ones(2, 3)
    boxes = torch.zeros(2, 1, 5)
    for each in (whole, flat):
        assert Augment.parse("flip")(each, torch.Generator()) is each
        assert Augment.parse("flip")(each, torch.Generator(), boxes)[1] is boxes


# --- in the trainer -------------------------------------------------------------------------------


class Drawn:
    """Samples of the drawing: images with boxes, or with a class."""

    def __init__(self, name: str = "targets", *, boxes: bool = True) -> None:
        images, rows = drawing(0)
        self.images = images.numpy()
        self.targets = rows.numpy() if boxes else np.arange(IMAGES)
        self.name = name

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.images[index], self.name: self.targets[index]}


class Keep(Objective):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, model: nn.Module, inputs: tuple[Tensor, ...], at: Moment) -> Terms:
        self.seen.append(inputs)
        return {"none": model(inputs[0]).mean()}


def trained(samples: Drawn, text: str) -> list[tuple[Tensor, ...]]:
    keep = Keep()
    recipe = Recipe(epochs=3, batch=IMAGES, workers=0, augment=text, seed=2)
    model = nn.Conv2d(IMAGES * OBJECTS, 1, 1)
    Trainer(model, keep, samples, ["x", samples.name], recipe, device="cpu").run()
    return keep.seen


def test_targets_are_moved_by_name() -> None:
    seen = trained(Drawn(), "flip=1 shift=0.2")
    assert len(seen) == 3
    for images, rows in seen:
        for image, own in zip(images, rows, strict=True):
            for row in own[own[:, 0] >= 0]:
                inside = covered(row[None], -1.0)
                assert (image[int(row[0])][inside] > 0.5).all()
        assert not torch.equal(
            rows.sort(0).values, torch.from_numpy(Drawn().targets).sort(0).values
        )
    plain = {tuple(r) for r in Drawn().targets.reshape(-1, 5).tolist()}
    for _, rows in trained(Drawn("labels"), "flip=1 shift=0.2"):
        assert {tuple(r) for r in rows.reshape(-1, 5).tolist()} == plain


def test_classes_stay_and_have_no_mosaic() -> None:
    for _, kinds in trained(Drawn(boxes=False), "flip=1"):
        assert sorted(kinds.tolist()) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="mosaic is for boxes"):
        trained(Drawn(boxes=False), "mosaic")
