"""Where a network looks: energy over positions, whatever the channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (what everyone calls it)
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.analyze.importance.base import check_option
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps, check_number
from graphopt.passes.distill.losses.maps import mean_square_over_channels
from graphopt.passes.distill.losses.masks import mask_over

FORMS = ("sum", "mean")


@dataclass(frozen=True)
class SpatialAttention(Loss):
    """L = mean_n sum_hw (A_s - A_t)^2,   A = v / ||v||_2,   v_hw = mean_c |F_chw|^p.

    Zagoruyko, Komodakis, Paying More Attention to Attention (AT), ICLR 2017. Widths may differ and
    need no adapter; scale and order of channels do not matter. 0 to 2 in the sum form.

    The published code means over positions as well: "mean", H * W times smaller than "sum". A has
    length 1 however many positions there are, so a weight on the mean holds for one input size
    only; the sum is the default. `sum_weight` and `mean_weight` convert; AT's weight is 1000 on
    means (the paper's beta/2 times the unsquared norm is not what its code does), system 2's are in
    `GROUP_WEIGHTS`. AT is known to hurt between unlike architectures; a student pruned from
    its teacher is the like case.

    Shapes: (N, C_s, H, W) and (N, C_t, H, W). With `mask` (N, H, W) both maps are multiplied by it,
    after A (system 2's fine-grained variant). An image whose features are all zero has A = 0.

    Attributes:
        power: p, at least 1.
        form: "sum" or "mean" over positions.
    """

    name = "spatial-attention"
    any_layout = True
    adapts = True
    takes = ("mask", "channels")

    power: float = 2.0
    form: str = "sum"

    def __post_init__(self) -> None:
        check_number(self.name, "power", self.power)
        if self.power < 1:  # |x|^p has no derivative at zero
            raise UsageError(f"{self.name}: power={self.power!r} is not at least 1")
        check_option(self.name, "form", self.form, FORMS)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Feature maps of equal height and width."""
        check_maps(self.name, student, teacher, channels=False)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        apart = attention(student, self.power) - attention(teacher, self.power)
        if given.mask is not None:
            apart = apart * mask_over(self.name, given.mask, student).flatten(1)
        return squares(apart, self.form)


def attention(features: Tensor, power: float = 2.0) -> Tensor:
    """A = v / ||v||_2,   v_hw = mean_c |F_chw|^p: (N, C, H, W) -> (N, H * W)."""
    # A square has no kink at zero, where the derivative of |x| is undefined.
    squared = power == 2
    energy = mean_square_over_channels(features) if squared else features.abs().pow(power).mean(1)
    return F.normalize(energy.flatten(1), dim=1, eps=1e-12)


def squares(apart: Tensor, form: str) -> Tensor:
    """Squares of (N, positions), summed (or meaned) over positions, meaned over images."""
    return apart.square().sum(1).mean() if form == "sum" else apart.square().mean()


def sum_weight(weight: float, height: int, width: int) -> float:
    """The weight on the sum form that equals `weight` on the mean form, for maps this large."""
    return weight / (height * width)


def mean_weight(weight: float, height: int, width: int) -> float:
    """The weight on the mean form that equals `weight` on the sum form, for maps this large."""
    return weight * height * width


@dataclass(frozen=True)
class GroupWeight:
    """What system 2 weighs the attention of one layer of YOLOv4 with.

    Attributes:
        group: "backbone", "ends" (of the 13 x 13 scale) or "neck".
        layer: its index in the darknet cfg, from 0.
        size: height and width of its map for inputs of 416.
        mean: the published weight, on the mean form at that size.
    """

    group: str
    layer: int
    size: int
    mean: float

    @property
    def sum(self) -> float:
        """The same weight on the sum form, which then holds for inputs of any size."""
        return sum_weight(self.mean, self.size, self.size)


# Chu et al., Group channel pruning and spatial attention distilling, Applied Intelligence 2022.
GROUP_WEIGHTS = (
    GroupWeight("backbone", 10, 208, 1e6),  # sum 23.1
    GroupWeight("backbone", 23, 104, 1e6),  # sum 92.5
    GroupWeight("backbone", 54, 52, 1e6),  # sum 369.8
    GroupWeight("backbone", 85, 26, 1e6),  # sum 1479.3
    GroupWeight("ends", 117, 13, 1e3),  # sum 5.9
    GroupWeight("neck", 127, 26, 1e4),  # sum 14.8
    GroupWeight("neck", 137, 52, 1e4),  # sum 3.7
    GroupWeight("neck", 148, 26, 1e4),  # sum 14.8
    GroupWeight("ends", 159, 13, 1e3),  # sum 5.9
)
