"""Losses on feature maps, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import Given, parse_loss
from graphopt.passes.distill.losses.masks import box_mask


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(text: str, student: Tensor, teacher: Tensor, given: Given | None = None) -> float:
    return parse_loss(text)(student, teacher, given).item()


def larger(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="nearest")


def of_channels(*channels: list[float]) -> Tensor:
    """One image, one row of positions per channel."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, None]


# --- hint ---------------------------------------------------------------------------------------


def test_hint_values() -> None:
    student, teacher = (
        torch.zeros(2, 1, 1, 2),
        torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(2, 1, 1, 2),
    )
    # 1 + 4 + 0 + 1 = 6, halved; of 4 values, of 2 images
    assert value("hint", student, teacher) == 0.75
    assert value("hint{reduce=batch}", student, teacher) == 1.5
    assert value("hint{reduce=sum}", student, teacher) == 3


# --- masked feature -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "mask", "expected"),
    [
        ("sum", [1.0, 0.0], 2.5),  # (1 + 4) / 2
        ("mean", [1.0, 0.0], 1.25),
        ("sum", [1.0, 1.0], 51.25),  # (5 + 200) / 4
        ("sum", [0.5, 0.0], 2.5),  # a mean over the mask, so its scale cancels
        ("sum", [0.0, 0.0], 0),
    ],
)
def test_masked_feature_values(form: str, mask: list[float], expected: float) -> None:
    student, teacher = of_channels([1.0, 10.0], [2.0, 10.0]), torch.zeros(1, 2, 1, 2)
    for shape in ((1, 1, 2), (1, 1, 1, 2)):
        given = Given(mask=torch.tensor(mask).view(shape))
        assert value(f"masked-feature{{form={form}}}", student, teacher, given) == expected


def test_masked_feature_is_blind_outside_the_mask() -> None:
    student = drawn(2, 3, 4, 5).requires_grad_()
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 1, 2] = True
    parse_loss("masked-feature")(student, drawn(2, 3, 4, 5, seed=1), Given(mask=mask)).backward()
    assert student.grad is not None
    assert (student.grad.abs().amax(1) > 0).equal(mask)


def test_masked_feature_without_objects_has_a_gradient_of_zero() -> None:
    student = drawn(2, 3, 4, 5).requires_grad_()
    given = Given(mask=torch.zeros(2, 4, 5))
    parse_loss("masked-feature")(student, drawn(2, 3, 4, 5, seed=1), given).backward()
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_a_mask_of_another_size_is_refused() -> None:
    maps, given = drawn(2, 3, 4, 5), Given(mask=torch.ones(2, 4, 4))
    for name in ("masked-feature", "spatial-attention"):
        with pytest.raises(UsageError, match=r"mask \(2, 4, 4\).*needs a mask \(2, 4, 5\)"):
            value(name, maps, maps, given)


def test_box_mask_covers_what_boxes_touch() -> None:
    boxes = [torch.tensor([[0.3, 0.0, 0.6, 0.5], [-0.5, 0.9, 0.1, 2.0]]), torch.zeros(0, 4)]
    mask = box_mask(boxes, height=4, width=5)
    # Columns 1.5 to 3 and rows 0 to 2; columns up to 0.5 and rows from 3.6
    expected = [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert mask[0].tolist() == expected
    assert mask[1].sum() == 0
    with pytest.raises(UsageError, match=r"boxes \(5,\) of image 0 are not \(boxes, 4\)"):
        box_mask([torch.zeros(5)], 2, 2)


# --- channel distillation -----------------------------------------------------------------------


def test_channel_distillation_values() -> None:
    student, teacher = of_channels([0.0, 2.0], [2.0, 2.0]), of_channels([0.0, 0.0], [3.0, 5.0])
    # Means 1, 2 and 0, 4: (1 + 4) / 2
    assert value("channel-distillation", student, teacher) == 2.5


def test_channel_distillation_does_not_see_positions() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    plain = value("channel-distillation", student, teacher)
    assert value("channel-distillation", student, larger(teacher)) == pytest.approx(plain)
    assert value("channel-distillation", student.flip(2, 3), teacher) == pytest.approx(plain)


# --- PKD ----------------------------------------------------------------------------------------


def test_pkd_values() -> None:
    # Two images of two positions. Channel 0: centred (-3, -1, 1, 3) / 2 and (-3, 1, -1, 3) / 2,
    # rho = (9 - 1 - 1 + 9) / 20 = 4/5. Channel 1: opposite, rho = -1.
    student = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[2.0, 3.0], [2.0, 3.0]]])[:, :, None]
    teacher = torch.tensor([[[0.0, 2.0], [3.0, 2.0]], [[1.0, 3.0], [1.0, 0.0]]])[:, :, None]
    assert value("pkd", student, teacher) == pytest.approx((0.2 + 2) / 2)


def test_pkd_ignores_scale_and_offset_of_channels() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    scale, offset = drawn(1, 3, 1, 1, seed=2).exp(), 10 * drawn(1, 3, 1, 1, seed=3)
    plain = value("pkd", student, teacher)
    assert value("pkd", scale * student + offset, teacher) == pytest.approx(plain)
    assert value("pkd", student, 100 * scale * teacher - offset) == pytest.approx(plain)
    assert value("pkd", -student, teacher) == pytest.approx(2 - plain)


@pytest.mark.parametrize("constant", [0.0, 0.7, -9999.7])  # means of the last two are rounded
def test_pkd_of_a_dead_channel_has_no_gradient_there(constant: float) -> None:
    student, teacher = (drawn(64, 3, 56, 56, seed=s).float() for s in (0, 1))
    alive = value("pkd", student[:, 1:], teacher[:, 1:])
    student[:, 0] = constant
    student.requires_grad_()
    loss = parse_loss("pkd")(student, teacher)
    loss.backward()
    assert student.grad is not None
    assert (student.grad[:, 0] == 0).all()
    assert student.grad[:, 1:].isfinite().all()
    # Dead in one counts 1/2, dead in both nothing.
    assert loss.item() == pytest.approx((2 * alive + 0.5) / 3, rel=1e-5)
    teacher[:, 0] = 7.3
    assert value("pkd", student, teacher) == pytest.approx(2 * alive / 3, rel=1e-5)


def test_pkd_of_a_channel_that_hardly_answers() -> None:
    # A std of 1e-8 would send back a gradient 1e8 times as large as one of 1.
    student = drawn(2, 3, 4, 5) * torch.tensor([1e-8, 1e-3, 1.0]).view(3, 1, 1)
    student.requires_grad_()
    parse_loss("pkd")(student, drawn(2, 3, 4, 5, seed=1)).backward()
    assert student.grad is not None
    assert (student.grad.abs().amax((0, 2, 3)) > 0).tolist() == [False, True, True]


def test_pkd_of_one_value_is_refused() -> None:
    with pytest.raises(UsageError, match="one value per channel has no correlation"):
        value("pkd", drawn(1, 3, 1, 1), drawn(1, 3, 1, 1))


# --- CWD ----------------------------------------------------------------------------------------


def test_cwd_values() -> None:
    # Channel 0: q_t = (3/4, 1/4), q_s = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2; channel 1 agrees.
    student = of_channels([0.0, 0.0], [1.0, 2.0])
    teacher = of_channels([math.log(3), 0.0], [1.0, 2.0])
    assert value("cwd", student, teacher) == pytest.approx(0.1308120359 / 2, rel=1e-9)
    # T^2 = 4, distributions the same
    warm = value("cwd{temperature=2}", 2 * student, 2 * teacher)
    assert warm == pytest.approx(2 * 0.1308120359, rel=1e-9)


def test_cwd_ignores_an_offset_of_a_channel() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    moved = value("cwd", student + drawn(2, 3, 1, 1, seed=2), teacher - drawn(2, 3, 1, 1, seed=3))
    assert moved == pytest.approx(value("cwd", student, teacher))


def test_cwd_does_not_depend_on_resolution() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    assert value("cwd", larger(student), larger(teacher)) == pytest.approx(
        value("cwd", student, teacher)
    )


def test_cwd_of_one_position_is_refused() -> None:
    with pytest.raises(UsageError, match="softmax over one position is always 1"):
        value("cwd", drawn(2, 3, 1, 1), drawn(2, 3, 1, 1))


# --- Gram ---------------------------------------------------------------------------------------


def test_gram_values() -> None:
    # G_s = 1, G_t has 0.6 * 0.8 + 0.8 * 0.6 = 0.96 beside the diagonal: 2 * 0.96^2 / 4
    student, teacher = of_channels([5.0, 0.0], [0.0, 2.0]), of_channels([3.0, 4.0], [8.0, 6.0])
    assert value("gram", student, teacher) == pytest.approx(0.4608)
    # Of two positions, centred ones are opposite or equal: -1 and -1
    assert value("gram{centred=true}", student, teacher) == pytest.approx(0)
    # +1 against -1, beside the diagonal: 2 * 2^2 / 4
    turned = of_channels([3.0, 4.0], [6.0, 8.0])
    assert value("gram{centred=true}", student, turned) == pytest.approx(2)


@pytest.mark.parametrize("text", ["gram", "gram{centred=true}"])
def test_gram_invariances(text: str) -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    plain = value(text, student, teacher)
    assert value(text, larger(student), teacher) == pytest.approx(plain)
    assert value(text, drawn(1, 3, 1, 1, seed=2).exp() * student, teacher) == pytest.approx(plain)
    assert value(text, student.flip(2), teacher.flip(3)) == pytest.approx(plain)
    order = [2, 0, 1]
    assert value(text, student[:, order], teacher[:, order]) == pytest.approx(plain)
    assert value(text, student[:, order], teacher) != pytest.approx(plain)
    offset = value(text, student + 10 * drawn(2, 3, 1, 1, seed=3), teacher)
    assert (offset == pytest.approx(plain)) == ("centred" in text)


@pytest.mark.parametrize(
    ("text", "dead"), [("gram", 0.0), ("gram", 1e-9), ("gram{centred=true}", 0.1)]
)
def test_gram_of_a_dead_channel_has_no_gradient_there(text: str, dead: float) -> None:
    student = drawn(2, 3, 4, 5).float()
    student[:, 0] = dead
    student.requires_grad_()
    parse_loss(text)(student, drawn(2, 3, 4, 5, seed=1).float()).backward()
    assert student.grad is not None
    assert (student.grad[:, 0] == 0).all()
    assert 0 < student.grad[:, 1:].abs().max() < 10


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "student", "teacher", "message"),
    [
        (
            "hint",
            (2, 3, 4, 4),
            (2, 6, 4, 4),
            "give channels= the teacher's kept indices, or put an adapter",
        ),
        ("pkd", (2, 3, 4, 4), (2, 3, 8, 8), "take tensors of the same stride, or resize one"),
        ("spatial-attention", (2, 3, 4, 4), (2, 6, 8, 8), "take tensors of the same stride"),
        ("gram", (2, 3, 4, 4), (2, 6, 4, 4), "needs equal channel counts"),
        ("cwd", (2, 3), (2, 3), "needs two feature maps (images, channels, positions...)"),
        ("hint", (2, 3), (2, 3, 4, 4), "needs two feature maps (images, channels, ...)"),
    ],
)
def test_shapes_that_do_not_fit(
    text: str, student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        value(text, drawn(*student), drawn(*teacher))
    expected = f"loss {parse_loss(text).name!r}: student {student}, teacher {teacher}: "
    assert str(caught.value).startswith(expected)
    assert message in str(caught.value)
