"""Which channels answer together, image by image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps
from graphopt.passes.distill.losses.spread import scaled, standardized

# A channel whose root mean square is below this is switched off.
_LEAST = 1e-6


@dataclass(frozen=True)
class Gram(Loss):
    """L = mean_n ||G_s - G_t||_F^2 / C^2,   G = R R^T,   R_c = F_c / ||F_c||_2 over positions.

    Inter-channel correlation: Liu et al., Exploring Inter-Channel Correlation for
    Diversity-preserved Knowledge Distillation (ICKD), ICCV 2021, with rows of length 1, so that
    scale of a channel does not matter. G is C x C per image: heights and widths may differ, and
    moving all channels' positions alike changes nothing. A channel
    that is switched off has a row of zeros and no gradient.

    Shapes: (N, C, H, W) both, equal N and C.

    Attributes:
        centred: take each channel's mean out first, which makes G the correlations proper.
    """

    name = "gram"
    takes = ("channels",)

    centred: bool = False

    def check(self, student: Shape, teacher: Shape) -> None:
        """Feature maps with equal channels."""
        check_maps(self.name, student, teacher, positions=False)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        # A mean over C * C pairs of channels and over images.
        return (self._gram(student) - self._gram(teacher)).square().mean()

    def _gram(self, features: Tensor) -> Tensor:
        rows = features.flatten(2)
        rows = (standardized if self.centred else scaled)(rows, 2, _LEAST)
        return rows @ rows.transpose(1, 2) / rows.shape[2]
