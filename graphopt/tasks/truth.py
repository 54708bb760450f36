"""Labelled boxes of a batch, without what only fills up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.errors import UsageError


@dataclass(frozen=True, eq=False)
class Truth:
    """The boxes of a batch one after another.

    Attributes:
        image: (t,) which image of the batch.
        kind: (t,) the class.
        boxes: (t, 4) x1 y1 x2 y2 in pixels of the input.
        padded: (images, most, 4) the same boxes by image; what fills up is zero.
    """

    image: Tensor
    kind: Tensor
    boxes: Tensor
    padded: Tensor

    @classmethod
    def of(cls, targets: Tensor, classes: int, like: Tensor) -> Truth:
        """The boxes in targets (images, rows, 5) of class, x1, y1, x2, y2; class -1 fills up.

        Boxes without width or height are left out.

        Args:
            targets: see above.
            classes: how many the model has.
            like: whose device and type of numbers boxes get.

        Raises:
            UsageError: another shape, numbers that are not finite, or a class the model has not.
        """
        if targets.dim() != 3 or targets.shape[2] != 5:
            raise UsageError(
                f"targets have shape {tuple(targets.shape)}; boxes are (images, rows, 5): class, "
                "x1, y1, x2, y2"
            )
        rows = targets.detach().to(like)
        is_box = rows[..., 0] != -1
        _check(rows[is_box], classes)
        is_box = is_box & (rows[..., 3:] > rows[..., 1:3]).all(-1)
        found = rows[is_box]
        most = int(is_box.sum(1).max()) if len(is_box) else 0
        # boxes first, in the order they come in
        order = torch.argsort((~is_box).to(torch.int8), dim=1, stable=True)[:, :most]
        boxes = torch.where(is_box[..., None], rows[..., 1:], 0)
        padded = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return cls(is_box.nonzero()[:, 0], found[:, 0].long(), found[:, 1:], padded)


def first_of_each(group: Tensor, rank: Tensor) -> Tensor:
    """The number of the highest-ranking member (n,) of every group; of equals the first.

    What is written to one place from several would else depend on the order of threads.
    """
    order = torch.argsort(rank, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    sorted_groups = group[order]
    is_first = torch.ones_like(sorted_groups, dtype=torch.bool)
    is_first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    return order[is_first]


def _check(rows: Tensor, classes: int) -> None:
    is_known = (rows[:, 0] >= 0) & (rows[:, 0] < classes)
    if bool((is_known & rows.isfinite().all(1)).all()):
        return
    if not bool(rows.isfinite().all()):
        raise UsageError("a labelled box is not finite: look for NaN in the labels")
    bad = int(rows[~is_known][0, 0])
    raise UsageError(
        f"a box is labelled with class {bad}; the model has {classes} (0 is the first)"
    )
