"""Correlation of each channel with the teacher's, over images and positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps, refuse
from graphopt.passes.distill.losses.maps import one_minus_channel_correlation

# A channel whose std is below this is dead; the paper's code adds as much to the std.
_LEAST = 1e-6


@dataclass(frozen=True)
class Pkd(Loss):
    """L = mean_c 1 - rho_c,   rho_c = Pearson's correlation of F_s and F_t over n, h, w in channel c

        = 1/2 * mean (G_s - G_t)^2,   G = (F - mean_nhw F) / std_nhw F.

    Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient, NeurIPS 2022. Blind to scale and offset of a channel, so that teachers of another
    magnitude serve. 0 to 2. Published weight per pyramid level: 6 (Faster or Mask R-CNN as teacher)
    or 10 (RetinaNet).

    A channel without a spread in one network, which pruned and sparsely trained ones have, counts
    1/2, in both 0, without gradient (see `spread`). The code's std divides by n - 1, this by n.

    Shapes: (N, C, ...) both, equal, at least two values per channel.
    """

    name = "pkd"
    any_layout = True
    takes = ("channels",)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal feature maps, two values per channel."""
        check_maps(self.name, student, teacher, least=2)
        if student[0] * math.prod(student[2:]) < 2:
            why = "one value per channel has no correlation; give larger maps or more images"
            refuse(self.name, student, teacher, why)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        return one_minus_channel_correlation(student, teacher, _LEAST).mean()
