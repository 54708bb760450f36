"""Masks over the positions of feature maps: where objects are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphopt.errors import UsageError


def box_mask(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """1 at every cell that a box of the image touches, 0 elsewhere: (N, height, width).

    Args:
        boxes: per image (boxes, 4), left, top, right and bottom as shares of the image, 0 to 1.
        height: of the feature map, in cells.
        width: of the feature map, in cells.

    Raises:
        UsageError: boxes of another shape.
    """
    mask = torch.zeros((len(boxes), height, width), device=boxes[0].device if boxes else None)
    size = torch.tensor([width, height, width, height])
    for image, found in enumerate(boxes):
        if found.ndim != 2 or found.shape[1] != 4:
            raise UsageError(f"boxes {tuple(found.shape)} of image {image} are not (boxes, 4)")
        cells = found.detach().float().cpu() * size
        corners = torch.cat([cells[:, :2].floor(), cells[:, 2:].ceil()], 1).clamp_min(0)
        for left, top, right, bottom in corners.long().tolist():
            mask[image, top:bottom, left:right] = 1
    return mask


def mask_over(name: str, mask: Tensor, features: Tensor) -> Tensor:
    """A mask (N, H, W) or (N, 1, H, W) as (N, H, W), in the features' type and place.

    Raises:
        UsageError: it has not the features' images and positions.
    """
    wanted = (features.shape[0], *features.shape[2:])
    found = tuple(mask.shape)
    if found not in (wanted, (wanted[0], 1, *wanted[1:])):
        raise UsageError(
            f"loss {name!r}: mask {found}, student {tuple(features.shape)}: needs a mask {wanted}"
        )
    return mask.detach().to(features).reshape(wanted)
