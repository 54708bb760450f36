"""How strongly each channel answers, averaged over positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps


@dataclass(frozen=True)
class ChannelDistillation(Loss):
    """L = mean_nc (w_s - w_t)^2,   w_nc = mean_hw F_nchw.

    Zhou et al., Channel Distillation: Channel-Wise Attention for Knowledge Distillation, 2020;
    published weight 6. In the features' unit, squared. Does not depend on how many positions there
    are, so heights and widths may differ.

    Shapes: (N, C, H, W) both, equal N and C.
    """

    name = "channel-distillation"
    takes = ("channels",)

    def check(self, student: Shape, teacher: Shape) -> None:
        """Feature maps with equal channels."""
        check_maps(self.name, student, teacher, positions=False)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        return (student.flatten(2).mean(2) - teacher.flatten(2).mean(2)).square().mean()
