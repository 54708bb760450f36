"""The schedules: their formulas on vectors made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.passes.prune.sparsity import SCHEDULES, Schedule, parse_schedule, register
from graphopt.passes.prune.sparsity.schedules import Constant

TWENTY = torch.arange(20.0).roll(7)  # the largest stands in the middle


def factors(text: str, done: float, sizes: torch.Tensor = TWENTY) -> list[float]:
    return parse_schedule(text).factors(done, sizes).tolist()


@pytest.mark.parametrize(
    ("text", "done", "expected"),
    [
        ("constant", 0.9, 1.0),
        ("global-decay", 0.5, 1.0),
        ("global-decay", 0.51, 0.01),
        ("global-decay{after=0.7 factor=0.1}", 0.71, 0.1),
        ("linear", 0.0, 1.0),
        ("linear", 0.5, 0.55),
        ("linear", 1.0, 0.1),
        ("cosine", 0.0, 1.0),
        ("cosine", 0.25, 0.8 * (1 + math.cos(math.pi / 4)) / 2 + 0.2),
        ("cosine", 0.5, 0.6),
        ("cosine", 1.0, 0.2),
        ("local-decay", 0.5, 1.0),
        ("dynamic", 0.4, 1.0),
        ("local-decay{after=0.2 top=0}", 0.9, 1.0),
        ("local-decay{after=0.2 top=1}", 0.9, 0.01),
    ],
)
def test_one_factor_for_all(text: str, done: float, expected: float) -> None:
    assert factors(text, done) == pytest.approx([expected] * 20)


@pytest.mark.parametrize(
    ("text", "done", "released"),
    [("local-decay", 0.51, 3), ("dynamic", 0.41, 7), ("local-decay{after=0 top=0.5}", 0.01, 10)],
)
def test_the_largest_are_released(text: str, done: float, released: int) -> None:
    expected = [0.01 if size >= 20 - released else 1.0 for size in TWENTY.tolist()]
    assert factors(text, done) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 3, 7, 20, 100, 333])
def test_the_threshold_is_the_published_one(count: int) -> None:
    sizes = torch.rand(count, generator=torch.Generator().manual_seed(count))
    for text, share in (("local-decay", 85), ("dynamic", 65)):
        threshold = sorted(sizes.tolist())[share * count // 100]
        expected = [0.01 if v >= threshold else 1.0 for v in sizes.tolist()]
        assert factors(text, 0.9, sizes) == pytest.approx(expected)


def test_no_channels_have_no_factors() -> None:
    for name in SCHEDULES:
        assert factors(name, 0.9, torch.zeros(0)) == []


def test_the_soft_mask_takes_what_is_far_below_the_mean_of_its_layer() -> None:
    cosine = parse_schedule("cosine")
    sizes, means = torch.tensor([0.1, 0.3, 0.1, 0.2]), torch.tensor([1.0, 1.0, 0.4, 1.0])
    found = cosine.weak(2, sizes, means)
    assert found is not None
    assert found.tolist() == [True, False, False, True]
    assert cosine.weak(3, sizes, means) is None
    assert cosine.shrink == pytest.approx(0.1)
    assert parse_schedule("cosine{mask-every=0}").weak(2, sizes, means) is None
    assert parse_schedule("linear").weak(2, sizes, means) is None


@pytest.mark.parametrize(
    "text", ["constant", "local-decay{after=0.3 top=0.2}", "dynamic", "cosine{mask-every=4}"]
)
def test_a_schedule_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_schedule(text)) == text
    assert parse_schedule(text) == parse_schedule(str(parse_schedule(f" {text} ")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local-decai", "did you mean local-decay"),
        ("local-decay{most=1}", "has no option 'most'; its options: after, top, factor"),
        ("local-decay{top=15}", r"top=15.0 is not from 0 to 1"),
        ("linear{last=nan}", r"last=nan is not from 0 to 1"),
        ("linear{last=much}", "is not a float"),
        ("linear last=1", "cannot read schedule"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_schedule(text)


def test_a_users_own_schedule() -> None:
    class Late(Constant):
        name = "late-for-test"

        def factors(self, done: float, sizes: torch.Tensor) -> torch.Tensor:
            return super().factors(done, sizes) * (done > 0.5)

    try:
        assert register(Late) is register(Late)
        assert factors("late-for-test", 0.4) == [0.0] * 20
        with pytest.raises(UsageError, match="registered already"):
            register(type("Other", (Schedule,), {"name": "late-for-test"}))
    finally:
        del SCHEDULES["late-for-test"]
