"""Labels in training: what the task's loss makes of the outputs, beside or instead of a teacher.

    L = L_task(outputs, labels) + sum over terms at tensors + sum over terms at boxes

Terms at boxes compare, for the anchors that answer for labelled objects, what student and teacher
say of the box with the label (teacher-bounded regression, Chen et al., NIPS 2017; KD2 of system 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.distill.losses import Given
from graphopt.passes.distill.losses.masks import box_mask
from graphopt.passes.distill.losses.teacher_bounded import TeacherBounded
from graphopt.passes.distill.written import Written

if TYPE_CHECKING:
    from graphopt.tasks import TaskSetup

TARGETS = "targets"  # what samples call their labels


@dataclass(frozen=True)
class Labels:
    """Labelled samples, and what to make of them.

    Attributes:
        setup: the loss, and what the outputs mean.
        samples: inputs by name, and the targets.
        size: height and width of the input.
    """

    setup: TaskSetup
    samples: Any
    size: tuple[int, int]

    def at_boxes(self, written: Sequence[Written]) -> AtBoxes | None:
        """The terms that compare boxes, or None when there are none.

        Raises:
            UsageError: a loss that compares no boxes, or a network that has none.
        """
        if not written:
            return None
        for each in written:
            if not isinstance(each.loss, TeacherBounded):
                raise UsageError(f"term {each.loss} @ boxes: only teacher-bounded compares boxes")
        matched = getattr(self.setup.loss, "matched_boxes", None)
        if matched is None:
            raise UsageError("terms @ boxes need a detector with anchors and its task's loss")
        return AtBoxes(written, matched)

    def masks(self, targets: Tensor, height: int, width: int) -> Tensor:
        """1 at the cells of a feature map that a labelled box touches: (N, height, width)."""
        high, wide = self.size
        shares = targets[..., 1:] / targets.new_tensor([wide, high, wide, high])
        boxes = [s[t[:, 0] >= 0] for s, t in zip(shares, targets, strict=True)]
        return box_mask(boxes, height, width)


class AtBoxes:
    """Terms of matched boxes; called with the student's outputs, the teacher's and the targets."""

    def __init__(self, written: Sequence[Written], matched: Callable[..., Any]) -> None:
        """`matched(outputs, targets)` gives the predicted and the labelled box of every match."""
        self._written, self._matched = written, matched

    def __call__(self, outputs: Any, said: Any, targets: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name."""
        mine, truth = self._matched(outputs, targets)
        with torch.no_grad():
            theirs, _ = self._matched(said, targets)
        return {
            f"{each.loss.name} boxes": each.term.weight * self._loss(each, mine, theirs, truth)
            for each in self._written
        }

    def _loss(self, each: Written, mine: Tensor, theirs: Tensor, truth: Tensor) -> Tensor:
        # A batch without any object has no box to compare, and no opinion.
        return each.loss(mine, theirs, Given(target=truth)) if len(mine) else mine.sum()


def labels_of(
    graph: Graph, source: Any, *, task: str, loss: str, preprocess: str, decoder: Any = None
) -> Labels:
    """Labelled samples for a graph.

    Args:
        graph: whose inputs are fed, and whose outputs are judged.
        source: KIND:WHERE (graphopt.evaluate.examples), or a labelled set.
        task: "detection", "classification" or "auto".
        loss: options of the task's loss.
        preprocess: how images become inputs.
        decoder: what a detector's outputs mean, if they do not say.

    Raises:
        UsageError: no labels, labels of another task, or outputs nothing is known about.
    """
    from graphopt.tasks import labelled_samples, task_for

    setup = task_for(graph, task, decoder=decoder, loss=loss)
    samples = labelled_samples(source, graph, setup, preprocess=preprocess)
    shape = list(graph.inputs[0].shape or ())
    sizes = [d for d in shape[2:] if isinstance(d, int)]
    return Labels(setup, samples, (sizes[0], sizes[1]) if len(sizes) == 2 else (0, 0))
