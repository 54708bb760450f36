"""Features alike where objects are, and free elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.passes.analyze.importance.base import check_option
from graphopt.passes.distill.losses.base import Given, Loss, Shape, check_maps
from graphopt.passes.distill.losses.masks import mask_over


@dataclass(frozen=True)
class MaskedFeature(Loss):
    """L = 1 / (2 N_p) * sum_nhw M_nhw * sum_c (F_s - F_t)_nchw^2,   N_p = sum_nhw M.

    Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, CVPR 2019. Most of
    a detector's map is background, which would drown the objects in a mean over all of it. Their
    mask has the cells whose anchors overlap a box; `masks.box_mask` has the cells of the boxes.
    Without any object in the batch the loss is 0.

    Shapes: (N, C, H, W) both, equal; `mask` (N, H, W) or (N, 1, H, W), 0 to 1.

    Attributes:
        form: "sum" over channels, the paper's, or "mean", whose weight does not depend on how many
            channels pruning left.
    """

    name = "masked-feature"
    needs = ("mask",)
    takes = ("channels",)

    form: str = "sum"

    def __post_init__(self) -> None:
        check_option(self.name, "form", self.form, ("sum", "mean"))

    def check(self, student: Shape, teacher: Shape) -> None:
        """Equal feature maps."""
        check_maps(self.name, student, teacher)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        assert given.mask is not None  # in `needs`
        mask = mask_over(self.name, given.mask, student)
        apart = (student - teacher).square()
        at = apart.sum(1) if self.form == "sum" else apart.mean(1)
        # An empty mask divides its zero by something.
        return (mask * at).sum() / (2 * mask.sum()).clamp_min(1e-6)
