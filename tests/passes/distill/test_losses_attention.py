"""Attention over positions and channels, and which of the teacher's channels are whose."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from graphopt.channels.plan import Plan
from graphopt.errors import UsageError
from graphopt.passes.distill.losses import (
    ChannelStd,
    Given,
    KeptChannels,
    Norm,
    parse_loss,
    selected_by_std,
)
from graphopt.passes.distill.losses.embedding import channel_embedding
from graphopt.passes.distill.losses.spatial_attention import (
    GROUP_WEIGHTS,
    mean_weight,
    sum_weight,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(text: str, student: Tensor, teacher: Tensor, given: Given | None = None) -> float:
    return parse_loss(text)(student, teacher, given).item()


def larger(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="nearest")


def of_channels(*channels: list[float]) -> Tensor:
    """One image, one row of positions per channel."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, None]


# --- spatial attention --------------------------------------------------------------------------

# Energies (3, 4) -> (0.6, 0.8), and (1 + 15, 4 + 8) / 2 = (8, 6) -> (0.8, 0.6), of two channels.
S = of_channels([math.sqrt(3), -2.0])
T = of_channels([1.0, 2.0], [-math.sqrt(15), math.sqrt(8)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spatial-attention", 0.08),  # 0.2^2 + 0.2^2
        ("spatial-attention{form=mean}", 0.04),
    ],
)
def test_spatial_attention_values(text: str, expected: float) -> None:
    assert value(text, S, T) == pytest.approx(expected)
    assert value(text, S.repeat(3, 1, 1, 1), T.repeat(3, 1, 1, 1)) == pytest.approx(expected)


def test_spatial_attention_of_another_power() -> None:
    # |F| summed: (3, 4) -> (0.6, 0.8); one position only: (1, 0). 0.4^2 + 0.8^2
    student, teacher = of_channels([1.0, -4.0], [-2.0, 0.0]), of_channels([-5.0, 0.0])
    assert value("spatial-attention{power=1}", student, teacher) == pytest.approx(0.8)


def test_spatial_attention_through_a_mask() -> None:
    given = Given(mask=torch.tensor([[[1.0, 0.0]]]))
    assert value("spatial-attention", S, T, given) == pytest.approx(0.04)


def test_spatial_attention_ignores_order_and_scale_of_channels() -> None:
    student, teacher = drawn(2, 5, 4, 4), drawn(2, 7, 4, 4, seed=1)
    plain = value("spatial-attention", student, teacher)
    assert value("spatial-attention", student[:, [3, 1, 4, 0, 2]], teacher) == pytest.approx(plain)
    for scale in (1e-2, -3.0, 1e4):
        assert value("spatial-attention", scale * student, teacher) == pytest.approx(plain)
    doubled = teacher.repeat_interleave(2, 1)
    assert value("spatial-attention", student, doubled) == pytest.approx(plain)


def test_the_sum_form_does_not_depend_on_resolution() -> None:
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 3, 4, 6, seed=1)
    pairs = (student, teacher), (larger(student), larger(teacher))
    small, large = (value("spatial-attention", *p) for p in pairs)
    assert large == pytest.approx(small)
    small, large = (value("spatial-attention{form=mean}", *p) for p in pairs)
    assert large == pytest.approx(small / 4)


def test_spatial_attention_of_nothing_has_no_gradient() -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = parse_loss("spatial-attention")(student, torch.ones(2, 3, 4, 4))
    loss.backward()
    assert loss.item() == pytest.approx(1)  # the teacher's map has length 1
    assert student.grad is not None
    assert (student.grad == 0).all()


@pytest.mark.parametrize(
    ("layer", "group", "expected"),
    [
        (10, "backbone", 23),
        (23, "backbone", 92),
        (54, "backbone", 370),
        (85, "backbone", 1479),
        (117, "ends", 5.9),
        (159, "ends", 5.9),
        (127, "neck", 14.8),
        (137, "neck", 3.7),
        (148, "neck", 14.8),
    ],
)
def test_group_weights_in_the_sum_form(layer: int, group: str, expected: float) -> None:
    found = {w.layer: w for w in GROUP_WEIGHTS}[layer]
    assert found.group == group
    assert found.sum == pytest.approx(expected, rel=0.01)
    assert len(GROUP_WEIGHTS) == 9


def test_weights_of_either_form_are_the_same_loss() -> None:
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 3, 4, 6, seed=1)
    by_mean = 1e4 * value("spatial-attention{form=mean}", student, teacher)
    by_sum = sum_weight(1e4, 4, 6) * value("spatial-attention", student, teacher)
    assert by_sum == pytest.approx(by_mean)
    assert mean_weight(sum_weight(1e4, 4, 6), 4, 6) == pytest.approx(1e4)


# --- hybrid attention ---------------------------------------------------------------------------

# Means of ReLU: 6 / 2, 8 / 2 -> (0.6, 0.8), and (8, 6) -> (0.8, 0.6): cos 0.96, 0.04^2 = 0.0016.
HS = of_channels([6.0, -1.0], [0.0, 8.0])
HT = of_channels([16.0, -1.0], [0.0, 12.0])


def test_channel_attention_values() -> None:
    assert channel_embedding(HS)[0].tolist() == pytest.approx([0.6, 0.8])
    text = "hybrid-attention{spatial=0 channel=2}"
    assert value(text, HS, HT) == pytest.approx(2 * 0.0016)


def test_hybrid_attention_is_the_sum_of_its_terms() -> None:
    channel, spatial = 0.0016, value("spatial-attention", HS, HT)
    assert spatial > 0.1  # energies (18, 32.5) and (128, 72.5)
    assert value("hybrid-attention", HS, HT) == pytest.approx(channel + 100 / 64 * spatial)
    # As published, and the same at 8 x 8.
    as_coded = value("hybrid-attention{form=mean spatial=100}", HS, HT)
    assert as_coded == pytest.approx(channel + 100 * spatial / 2)
    maps = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    as_coded = value("hybrid-attention{form=mean spatial=100}", *maps)
    assert value("hybrid-attention", *maps) == pytest.approx(as_coded)


def test_the_next_blocks_norm_comes_before_the_relu() -> None:
    # (x - 1) / sqrt(3 + 1) * 2 + 3 = x + 2 and, for channel 1, x - 1
    numbers = torch.tensor([[1.0, 3.0, 2.0, 3.0], [1.0, 3.0, 2.0, 0.0]], dtype=torch.float64)
    norm = Norm(*numbers.T, eps=1.0)
    # ReLU: (8, 1) / 2 and (0, 7) / 2
    expected = torch.tensor([9.0, 7.0]) / math.hypot(9, 7)
    assert channel_embedding(HS, norm)[0].tolist() == pytest.approx(expected.tolist())


def bn(channels: int, seed: int) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(channels).double()
    with torch.no_grad():
        for tensor, values in zip(
            (module.running_mean, module.weight, module.bias),
            drawn(3, channels, seed=seed),
            strict=True,
        ):
            tensor.copy_(values)  # type: ignore[union-attr]
        module.running_var.copy_(drawn(channels, seed=seed + 1).exp())  # type: ignore[union-attr]
    return module


def test_a_norm_is_the_module_at_inference() -> None:
    module, maps = bn(3, 1), drawn(2, 3, 4, 4)
    torch.testing.assert_close(Norm.of(module)(maps), module.eval()(maps))
    plain = nn.BatchNorm2d(3, affine=False).double()
    torch.testing.assert_close(Norm.of(plain)(maps), plain.eval()(maps))
    assert Norm.of(module).select(KeptChannels((2, 0))).weight.equal(module.weight[[2, 0]])


def test_modules_in_training_mode_keep_their_statistics() -> None:
    student_bn, teacher_bn = bn(3, 1).train(), bn(5, 3).train()
    before = [b.clone() for m in (student_bn, teacher_bn) for b in m.buffers()]
    given = Given(
        channels=KeptChannels((4, 0, 1)),
        student_norm=Norm.of(student_bn),
        teacher_norm=Norm.of(teacher_bn),
    )
    student, teacher = drawn(2, 3, 4, 4).requires_grad_(), drawn(2, 5, 4, 4, seed=1)
    loss = parse_loss("hybrid-attention")(student, teacher, given)
    with torch.no_grad():  # the statistics may move before the backward pass
        assert student_bn.running_mean is not None
        student_bn.running_mean += 1
        loss.backward()
        student_bn.running_mean -= 1
    after = [b for m in (student_bn, teacher_bn) for b in m.buffers()]
    assert all(torch.allclose(b, a) for b, a in zip(before, after, strict=True))
    assert student_bn.weight.grad is not None
    assert student_bn.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in teacher_bn.parameters())


def test_a_norm_for_other_features_is_refused() -> None:
    given = Given(student_norm=Norm.of(bn(4, 1)))
    with pytest.raises(UsageError, match="the norm has 4 channels, the features .* have 3"):
        value("hybrid-attention", drawn(2, 3, 4, 4), drawn(2, 3, 4, 4), given)
    with pytest.raises(UsageError, match="BatchNorm2d has no running statistics"):
        Norm.of(nn.BatchNorm2d(3, track_running_stats=False))


def test_channels_that_never_answer_have_no_gradient() -> None:
    student = -drawn(2, 3, 4, 4).abs().float()
    student.requires_grad_()
    loss = parse_loss("hybrid-attention{spatial=0}")(student, drawn(2, 3, 4, 4, seed=1).float())
    loss.backward()
    assert loss.item() == 1
    assert student.grad is not None
    assert (student.grad == 0).all()


# --- which channels -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list, torch.tensor])
def test_kept_channels(kind: Any) -> None:
    channels, maps = KeptChannels(kind([2, 0])), drawn(2, 3, 4, 4)
    assert channels.indices == (2, 0)
    assert channels.of(maps).equal(maps[:, [2, 0]])
    assert channels.shape((2, 3, 4, 4)) == (2, 2, 4, 4)
    assert hash(channels) == hash(KeptChannels((2, 0)))


@pytest.mark.parametrize("indices", [(), (1, 1), (0, -1)])
def test_kept_channels_that_cannot_be_meant(indices: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="give the teacher's channel numbers, each once"):
        KeptChannels(indices)


def test_kept_channels_of_another_tensor() -> None:
    with pytest.raises(
        UsageError, match=r"kept channel 7 is not in the teacher's tensor \(2, 3, 4\)"
    ):
        value("hint", drawn(2, 2, 4), drawn(2, 3, 4), Given(channels=KeptChannels((0, 7))))


def test_channels_from_a_plan() -> None:
    plan = Plan({"conv.weight": {0: (1, 3), 1: (0,)}}, {"conv.weight": (4, 2, 1, 1)})
    assert KeptChannels.from_plan(plan, "conv.weight") == KeptChannels((1, 3))
    assert KeptChannels.from_plan(plan, "conv.weight", axis=1) == KeptChannels((0,))
    assert KeptChannels.from_plan(plan, "other.weight") is None


def test_std_over_all_images_whatever_the_batches() -> None:
    maps = drawn(30, 5, 3, 3) + 5
    expected = channel_embedding(maps).std(0, correction=0)
    for sizes in ([30], [1] * 30, [7, 0, 20, 3]):
        spread = ChannelStd()
        for batch in maps.split(sizes):
            spread.add(batch)
        assert spread.images == 30
        torch.testing.assert_close(spread.std(), expected, rtol=1e-9, atol=0)
    norm = Norm.of(bn(5, 1))
    spread = ChannelStd(norm)
    spread.add(maps)
    torch.testing.assert_close(spread.std(), channel_embedding(maps, norm).std(0, correction=0))


def test_the_channels_that_vary_most_are_selected() -> None:
    # Rows are of length 1 already: std over images 0.1, 0 (negative: ReLU), about 0.3, 0.
    rows = (
        torch.tensor([[0.6, -1, 0.8, 0], [0.8, -3, 0.6, 0], [0.7, -2, 0.0, 0]])
        .sqrt()
        .nan_to_num(-1)
    )
    batches = [rows[:2, :, None], rows[2:, :, None]]
    picks = [selected_by_std(batches, count, least=3).indices for count in (1, 2, 3, 4)]
    assert picks == [(2,), (0, 2), (0, 1, 2), (0, 1, 2, 3)]


def test_selecting_needs_images() -> None:
    spread = ChannelStd()
    with pytest.raises(UsageError, match="no features were added"):
        spread.std()
    spread.add(drawn(999, 2, 1))
    with pytest.raises(UsageError, match="999 images, too few .* add 1000, or say least=999"):
        spread.select(1)
    spread.add(drawn(1, 2, 1))
    assert len(spread.select(1).indices) == 1
    with pytest.raises(UsageError, match="cannot select 3 of 2 channels"):
        spread.select(3)
    with pytest.raises(UsageError, match="have 3 channels, those before had 2"):
        spread.add(drawn(1, 3, 1))
    with pytest.raises(UsageError, match="need .images, channels, positions"):
        spread.add(drawn(1, 2))
