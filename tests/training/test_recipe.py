"""Recipes, schedules, augmentations and orders: pure functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.training import Augment, Recipe
from graphopt.training.feed import Order
from graphopt.training.optimizers import optimizer_for


def test_reads_text() -> None:
    recipe = Recipe.parse("epochs=3 lr=0.5, on-bad=skip ema=0.99", batch=7)
    assert (recipe.epochs, recipe.lr, recipe.on_bad, recipe.ema, recipe.batch) == (
        3,
        0.5,
        "skip",
        0.99,
        7,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learningrate=1", "no option of a recipe is called 'learningrate'"),
        ("lr=fast", "'fast' is not a float"),
        ("optimizer=adam", "no optimizer is called 'adam'; did you mean adamw"),
        ("batch=0", "batch=0 is below 1"),
        ("ema=2", "ema=2.0 is not between 0 and 1"),
        ("epochs", "write option=value"),
    ],
)
def test_refuses_what_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.parse(text)


def test_learning_rates() -> None:
    def rates(**options: object) -> list[float]:
        recipe = Recipe(lr=1.0, **options)
        return [recipe.learning_rate(s, 100, 10) for s in range(100)]

    cosine = rates(warmup=1.0, floor=0.1)
    assert cosine[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert cosine[10] == pytest.approx(1.0)
    assert cosine[55] == pytest.approx(0.55, abs=0.01)
    assert cosine[99] == pytest.approx(0.1, abs=0.01)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    step = rates(schedule="step", warmup=0)
    assert [step[k] for k in (0, 69, 70, 89, 90, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    linear = rates(schedule="linear", warmup=0, floor=0)
    assert linear[50] == pytest.approx(0.5)
    assert set(rates(schedule="constant", warmup=0)) == {1.0}


def test_weights_decay_and_scales_do_not() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for name in ("sgd", "adamw"):
        optimizer = optimizer_for(module, Recipe(optimizer=name, weight_decay=0.1))
        decays = {
            tuple(p.shape): group["weight_decay"]
            for group in optimizer.param_groups
            for p in group["params"]
        }
        assert decays == {(4, 3, 3, 3): 0.1, (4,): 0.0}


def test_every_sample_once_per_epoch_and_from_any_batch_on() -> None:
    order = Order(10, 3, seed=1)
    order.between(0, 9)
    batches = list(order)
    for epoch in range(3):
        drawn = [i for batch in batches[3 * epoch : 3 * epoch + 3] for i in batch]
        assert len(set(drawn)) == 9
    assert batches[:3] != batches[3:6]
    order.between(4, 9)
    assert list(order) == batches[4:]


def test_processes_share_an_epoch() -> None:
    orders = [Order(12, 2, seed=0, process=k, processes=3) for k in range(3)]
    drawn = [i for order in orders for batch in order for i in batch]
    assert sorted(drawn) == list(range(12))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentations_repeat_and_differ() -> None:
    images = torch.randn(16, 3, 8, 8)
    augment = Augment.parse("flip shift=0.25 zoom=0.2 contrast=0.2 brightness=0.1")
    torch.testing.assert_close(augment(images, draws()), augment(images, draws()))
    assert not torch.equal(augment(images, draws()), augment(images, draws(1)))
    assert augment(images, draws()).shape == images.shape


def test_flips_about_half_and_moves_whole_pixels() -> None:
    images = torch.arange(8.0).expand(400, 1, 4, 8).contiguous()
    flipped = Augment.parse("flip")(images, draws())
    share = (flipped[:, 0, 0, 0] == 7).float().mean()
    assert 0.4 < share < 0.6
    assert {tuple(r.tolist()) for r in flipped[:, 0, 0]} == {
        tuple(range(8)),
        tuple(range(7, -1, -1)),
    }
    moved = Augment.parse("shift=0.25")(images, draws())
    assert {float(v) for v in moved[:, 0, 0, 0]} == {0.0, 1.0, 2.0}
    assert set(moved.unique().tolist()) <= set(range(8))


def test_zoom_also_mirrors() -> None:
    images = torch.arange(8.0).expand(200, 1, 8, 8).contiguous()
    changed = Augment.parse("flip zoom=0.01")(images, draws())
    falling = (changed[:, 0, 4, 7] < changed[:, 0, 4, 0]).float().mean()
    assert 0.35 < falling < 0.65


def test_what_is_no_image_is_left_alone() -> None:
    rows = torch.randn(4, 7)
    assert Augment.parse("flip zoom=0.5")(rows, draws()) is rows
    assert Augment.parse("none") == Augment()


@pytest.mark.parametrize("text", ["spin", "zoom=2", "zoom=big"])
def test_unknown_augmentations(text: str) -> None:
    with pytest.raises(UsageError, match=r"augmentation"):
        Augment.parse(text)
