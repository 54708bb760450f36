"""Relations between classes and within them, rather than the probabilities themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses.base import Given, Shape, check_number, refuse
from graphopt.passes.distill.losses.rows import RowLoss
from graphopt.passes.distill.losses.spread import one_minus_correlation

# A std of probabilities below this is none. Rows of a detector's background are about 1e-5.
_LEAST = 1e-8


@dataclass(frozen=True)
class Dist(RowLoss):
    """L = T^2 * (inter * L_inter + intra * L_intra),   p = softmax(z / T), rows n, classes c,

        L_inter = 1 - mean_n rho(p_s[n, :], p_t[n, :]),
        L_intra = 1 - mean_c rho(p_s[:, c], p_t[:, c]),   rho = Pearson's correlation.

    Huang et al., Knowledge Distillation from A Stronger Teacher (DIST), NeurIPS 2022, who call the
    term along a row, across classes, "inter". Blind to scale and offset of a row (inter) or of a
    class (intra), which is what lets a student follow a teacher much stronger than itself. 0 to 2
    each. Published: inter = intra = 1 with weight 2, T = 1 (ImageNet) or 4 (CIFAR); on RetinaNet's
    classes with a sigmoid, weight 1.

    1 - rho is computed as half the mean square between the standardized (see `spread`): rows and
    classes that are constant in both count 0, in one of the two 1/2, without gradient.

    For YOLO: `dist{anchors=3 part=classes sigmoid=true}`. The correlation of one number is
    undefined, that of two is 1 or -1 whatever they are: inter needs three classes. With one class
    use inter=0, on the class or (part=scores) on objectness and class.

    Shapes: logits as `RowLoss` describes; intra needs two rows.

    Attributes:
        inter, intra: what the terms count.
        temperature: T.
        sigmoid: probabilities by a sigmoid per class instead of a softmax over them.
    """

    name = "dist"

    inter: float = 1.0
    intra: float = 1.0
    temperature: float = 1.0
    sigmoid: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "temperature", self.temperature)
        check_number(self.name, "inter", self.inter, zero=True)
        check_number(self.name, "intra", self.intra, zero=True)
        if not self.inter + self.intra:
            raise UsageError(f"{self.name}: inter=0 and intra=0 leave nothing")

    def check(self, student: Shape, teacher: Shape) -> None:
        """Enough classes for inter, enough rows for intra."""
        super().check(student, teacher)
        images, count, classes = self.shape(student)
        if self.inter and classes < 3:
            why = (
                f"inter correlates the classes of a row, and over {classes} that is "
                f"{'undefined' if classes == 1 else '1 or -1, without a gradient'}; use inter=0 "
                "(intra only), on [objectness, class] with part=scores"
            )
            refuse(self.name, student, teacher, why)
        if classes == 1 and not self.sigmoid:
            why = "a softmax over one class is always 1; use sigmoid=true or part=scores"
            refuse(self.name, student, teacher, why)
        if self.intra and images * count < 2:
            why = "intra correlates the rows of a class and needs two; drop incomplete batches"
            refuse(self.name, student, teacher, why)

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        del given
        p_s, p_t = self._probabilities(student), self._probabilities(teacher)
        loss = student.new_zeros(())
        if self.inter:
            loss = loss + self.inter * one_minus_correlation(p_s, p_t, 1, _LEAST).mean()
        if self.intra:
            loss = loss + self.intra * one_minus_correlation(p_s, p_t, 0, _LEAST).mean()
        return loss * self.temperature**2

    def _probabilities(self, logits: Tensor) -> Tensor:
        z = self.rows(logits).flatten(0, 1) / self.temperature
        return z.sigmoid() if self.sigmoid else z.softmax(1)
