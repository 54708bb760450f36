"""Sums over feature maps in pieces: the plain formula's values and gradients, however a map lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.passes.distill.losses import maps
from graphopt.passes.distill.losses.maps import (
    mean_square_over_channels,
    one_minus_channel_correlation,
)

SHAPES = [(5, 3, 4, 6), (4, 2, 7), (6, 3), (2, 3, 2, 3, 2), (1, 4, 9, 9)]
SIZES = [1, 200, 1 << 20]  # bytes of a piece: single images, a few, all


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=kind)


def by_formula(a: Tensor, b: Tensor) -> Tensor:
    axes = (0, *range(2, a.ndim))

    def standard(x: Tensor) -> Tensor:
        return (x - x.mean(axes, keepdim=True)) / x.std(axes, correction=0, keepdim=True)

    return (standard(a) - standard(b)).square().mean(axes) / 2


def gradient(values: Tensor, a: Tensor) -> Tensor:
    weights = torch.arange(1.0, values.numel() + 1, dtype=values.dtype).reshape(values.shape)
    return torch.autograd.grad((values * weights).sum(), a)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_correlation(shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_PIECE", size)
    a, b = drawn(*shape).requires_grad_(), drawn(*shape, seed=1) + 3
    found, wanted = one_minus_channel_correlation(a, b, 1e-6), by_formula(a, b)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, a), gradient(wanted, a))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 1, 2, 2)], ids=str)
def test_mean_square(shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_PIECE", size)
    a = drawn(*shape).requires_grad_()
    found, wanted = mean_square_over_channels(a), a.square().mean(1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, a), gradient(wanted, a))


@pytest.mark.parametrize("mine", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("theirs", [torch.contiguous_format, torch.channels_last])
def test_layouts(mine: torch.memory_format, theirs: torch.memory_format) -> None:
    """The same numbers, and the gradient lies as the map does."""
    a, b = drawn(4, 6, 5, 7, kind=torch.float32), drawn(4, 6, 5, 7, seed=1, kind=torch.float32)
    found = []
    for one, two in ((a, b), (a.to(memory_format=mine), b.to(memory_format=theirs))):
        one = one.detach().requires_grad_()
        values = one_minus_channel_correlation(one, two, 1e-6)
        found.append((values, gradient(values, one)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-9)
    assert found[1][1].is_contiguous(memory_format=mine)


def test_a_large_offset_costs_no_digits() -> None:
    """Products around each piece's mean: a sum of squares less a square would be all rounding here."""
    a, b = drawn(8, 3, 16, 16), drawn(8, 3, 16, 16, seed=1)
    b = b + 0.7 * a
    near = one_minus_channel_correlation(a, b, 1e-6)
    far = one_minus_channel_correlation((a + 3000).float(), (b - 5000).float(), 1e-6)
    # What is left is that the inputs themselves are rounded to 2^-12.
    torch.testing.assert_close(far.double(), near, rtol=1e-4, atol=1e-5)


def test_equal_maps_and_opposite_ones() -> None:
    a = drawn(8, 3, 16, 16, kind=torch.float32).requires_grad_()
    same = one_minus_channel_correlation(a, a.detach(), 1e-6)
    assert torch.equal(same, torch.zeros(3))
    assert float(gradient(same, a).abs().max()) < 1e-9
    torch.testing.assert_close(one_minus_channel_correlation(a, -a, 1e-6), torch.full((3,), 2.0))


def test_constant_channels() -> None:
    a, b = drawn(2, 4, 3, 3, kind=torch.float32), drawn(2, 4, 3, 3, seed=1, kind=torch.float32)
    a[:, 0], b[:, 0] = 0.1, 7.0  # both
    a[:, 1] = 1000.1
    b[:, 2] = 0.0
    a.requires_grad_()
    found = one_minus_channel_correlation(a, b, 1e-6)
    torch.testing.assert_close(found[:3], torch.tensor([0.0, 0.5, 0.5]))
    back = gradient(found, a)
    assert not back[:, :3].any()
    assert back[:, 3].all()


def test_what_is_not_trained_gets_no_gradient() -> None:
    a, b = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1).requires_grad_()
    found = one_minus_channel_correlation(a, b, 1e-6).sum() + 0 * b.sum()
    found.backward()
    assert not b.grad.any()


def test_a_teacher_in_another_precision() -> None:
    a, b = drawn(8, 3, 16, 16), drawn(8, 3, 16, 16, seed=1)
    wanted = one_minus_channel_correlation(a, b, 1e-6)
    one = a.float().requires_grad_()
    found = one_minus_channel_correlation(one, b, 1e-6)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    assert gradient(found, one).dtype == torch.float32
