"""Labelled boxes that move with the pixels of their images.

    x' = scale x + offset          mirrored where the scale is negative; y likewise

Boxes (images, rows, 5) are class, x1, y1, x2, y2 in pixels; class -1 fills up.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_VISIBLE = 0.1  # the share of a box; of what shows less nobody could tell what it is
_LEAST = 1.0  # pixels in width and height


def moved(boxes: Tensor, scale: Tensor, offset: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Boxes moved, cut at a window, and dropped (class -1) where too little stays visible.

    Args:
        boxes: see the module's text.
        scale: (images, 2) for x and y.
        offset: (images, 2) in pixels.
        low: (images, 2) the window's corner, x before y.
        high: (images, 2) its other corner.
    """
    corners = boxes[..., 1:].unflatten(-1, (2, 2)) * scale[:, None, None] + offset[:, None, None]
    corners = torch.stack((corners.amin(2), corners.amax(2)), dim=2)
    cut = torch.minimum(torch.maximum(corners, low[:, None, None]), high[:, None, None])
    before = (corners[:, :, 1] - corners[:, :, 0]).prod(-1)
    after = cut[:, :, 1] - cut[:, :, 0]
    is_seen = (after.prod(-1) >= LEAST_VISIBLE * before) & (after >= _LEAST).all(-1)
    is_kept = is_seen & (boxes[..., 0] >= 0)
    kind = torch.where(is_kept, boxes[..., 0], -1.0)
    values = torch.where(is_kept[..., None], cut.flatten(2), 0.0)
    return torch.cat((kind[..., None], values), dim=-1)


def largest(boxes: Tensor, most: int) -> Tensor:
    """The `most` largest boxes of every image, largest first."""
    size = (boxes[..., 3:] - boxes[..., 1:3]).prod(-1)
    rank = torch.where(boxes[..., 0] >= 0, size, -1.0)
    order = torch.argsort(rank, dim=1, descending=True, stable=True)[:, :most]
    return boxes.gather(1, order[..., None].expand(-1, -1, boxes.shape[2]))
