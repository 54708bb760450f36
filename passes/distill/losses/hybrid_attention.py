"""Where a network looks and which channels it uses, together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.analyze.importance.base import check_option
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps, check_number
from graphopt.passes.distill.losses.embedding import channel_embedding
from graphopt.passes.distill.losses.spatial_attention import FORMS, attention, squares

# System 5's weights of the three stages of a WideResNet, first to last: delta * k, delta = 10 and
# k = 0.01, 0.1, 1.
STAGE_WEIGHTS = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class HybridAttention(Loss):
    """L = channel * mean_n (1 - e_s . e_t)^2 + spatial * mean_n sum_hw (A_s - A_t)^2,

        e = v / ||v||_2,   v_c = mean_hw ReLU(BN_next(F))_chw   (`channel_embedding`),
        A = u / ||u||_2,   u_hw = mean_c F_chw^2                (`attention`).

    H-AT, PRCV 2020, doi 10.1007/978-3-030-60636-7_21 (system 5), weights per stage in
    `STAGE_WEIGHTS`. Its code means the spatial term over positions and weighs it 100; 100 / 64 on
    the sum is the same for its last stage (8 x 8), the only one where it uses both terms, and holds
    for other sizes. Exactly as coded: form=mean spatial=100.

    Widths that differ are brought together by `channels`: the kept channels of a pruned student, or
    `selected_by_std`. Both terms use them; the code does in its last stage only and takes the
    teacher's first channels elsewhere, which have no relation to the student's.

    BN_next is the BatchNorm that reads F, given as `student_norm` and `teacher_norm`: applied with
    its running statistics, never as a module, which would move them (see `Norm`). Without them F is
    taken as it is: give features after the BatchNorm.

    Shapes: (N, C, H, W) both, equal.

    Attributes:
        channel, spatial: what the terms count.
        form: the spatial term's, "sum" or "mean" over positions.
    """

    name = "hybrid-attention"
    takes = ("channels", "student_norm", "teacher_norm")

    channel: float = 1.0
    spatial: float = 100 / 64
    form: str = "sum"

    def __post_init__(self) -> None:
        check_number(self.name, "channel", self.channel, zero=True)
        check_number(self.name, "spatial", self.spatial, zero=True)
        check_option(self.name, "form", self.form, FORMS)
        if not self.channel + self.spatial:
            raise UsageError(f"{self.name}: channel=0 and spatial=0 leave nothing")

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal feature maps."""
        check_maps(self.name, student, teacher)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        e_s = channel_embedding(student, given.student_norm)
        # The norm may be a live module's: its parameters are not the student's to train.
        e_t = channel_embedding(teacher, given.teacher_norm).detach()
        channel = (1 - (e_s * e_t).sum(1)).square().mean()
        spatial = squares(attention(student) - attention(teacher), self.form)
        return self.channel * channel + self.spatial * spatial
