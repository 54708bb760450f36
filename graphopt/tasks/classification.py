"""The loss of a classifier.

    L = mean over images of -sum_c q_c log softmax(logits)_c,   q = (1 - e) [c is the class] + e / classes

Label smoothing: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.tasks.options import Options
from graphopt.tasks.outputs import Outputs, as_list


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """What can be set in `loss`.

    Attributes:
        class_: weight of the term.
        smoothing: e.
    """

    name: ClassVar[str] = "classification"

    class_: float = 1.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.check_numbers("class_")
        self.check_numbers("smoothing", most=1)


class ClassificationLoss(nn.Module):
    """See the module's text."""

    def __init__(
        self,
        classes: int,
        options: ClassificationOptions | None = None,
        *,
        probabilities: bool = False,
    ) -> None:
        """The loss for one classifier.

        Args:
            classes: how many there are.
            options: the defaults if left out.
            probabilities: the output has gone through a softmax; its logarithm serves as logits.
        """
        super().__init__()
        self.classes, self.probabilities = classes, probabilities
        self.options = options or ClassificationOptions()

    def forward(self, outputs: Outputs, targets: Tensor) -> dict[str, Tensor]:
        """The weighted term "class".

        Args:
            outputs: (images, classes), with any axes of size 1 behind, in any precision.
            targets: (images,) the classes.

        Raises:
            UsageError: other shapes, or a class the model has not.
        """
        (scores,) = as_list(outputs)
        scores = scores.flatten(1)
        if scores.shape != (len(targets), self.classes) or targets.dim() != 1:
            raise UsageError(
                f"outputs {tuple(scores.shape)} and targets {tuple(targets.shape)}; the loss needs "
                f"(images, {self.classes}) and (images,)"
            )
        kinds = targets.to(scores.device).long()
        is_known = (kinds >= 0) & (kinds < self.classes)
        if not bool(is_known.all()):
            bad = int(kinds[~is_known][0])
            raise UsageError(
                f"an image is labelled with class {bad}; the model has {self.classes} (0 is the first)"
            )
        if self.probabilities:
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        loss = functional.cross_entropy(scores, kinds, label_smoothing=self.options.smoothing)
        return {"class": self.options.class_ * loss}
