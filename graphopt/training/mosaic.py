"""Four images in one: a quarter each, around a common corner.

    quarter k shows image n (k = 0) or another of the batch, scaled to fill it and centred in it

Objects get smaller and appear among others. Bochkovskiy et al., "YOLOv4", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.training.moving import largest, moved

_NEAREST = 0.3  # of the common corner to the edges, as a share of the width and the height


def mosaics(
    images: Tensor, boxes: Tensor | None, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Images (N, C, H, W) of which a share is replaced; boxes (N, M, 5), if any, follow.

    Where there are more than M boxes in the end, the largest stay.
    """
    count, _, height, width = images.shape
    # drawn on the CPU, so that every device draws the same
    is_mosaic = torch.rand(count, generator=generator) < share
    others = torch.randint(count, (count, 3), generator=generator)
    place = _NEAREST + (1 - 2 * _NEAREST) * torch.rand(count, 2, generator=generator)
    chosen = is_mosaic.nonzero()[:, 0]
    if not len(chosen):
        return images, boxes
    sources = torch.cat((chosen[:, None], others[chosen]), dim=1).to(images.device)
    whole = images.new_tensor([width, height])
    corner = (place[chosen].to(images) * whole).round()
    made, found = torch.empty_like(images[: len(chosen)]), []
    for quarter in range(4):
        right, low = quarter % 2, quarter // 2
        side = images.new_tensor([right, low])
        start, stop = corner * side, torch.where(side > 0, whole, corner)
        scale = ((stop - start) / whole).amax(1, keepdim=True)
        offset = (start + stop) / 2 - scale * whole / 2
        shown = _scaled(images[sources[:, quarter]], scale, offset)
        made = torch.where(_inside(start, stop, height, width), shown, made)
        if boxes is not None:
            scales = scale.expand(-1, 2)
            found.append(moved(boxes[sources[:, quarter]], scales, offset, start, stop))
    chosen = chosen.to(images.device)
    if boxes is not None:
        boxes = boxes.index_copy(0, chosen, largest(torch.cat(found, dim=1), boxes.shape[1]))
    return images.index_copy(0, chosen, made), boxes


def _scaled(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Images drawn at x' = scale x + offset, in pixels."""
    height, width = images.shape[2:]
    whole = images.new_tensor([width, height])
    # affine_grid speaks of -1 to 1 and goes from what is made to what it is made of
    back = 1 / scale
    move = (2 * (whole / 2 - offset) / whole) * back - 1
    transform = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    transform[:, 0, 0] = transform[:, 1, 1] = back[:, 0]
    transform[:, :, 2] = move
    grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _inside(start: Tensor, stop: Tensor, height: int, width: int) -> Tensor:
    """Which pixels (n, 1, height, width) lie between two corners (n, 2)."""
    x = torch.arange(width, device=start.device) + 0.5
    y = torch.arange(height, device=start.device) + 0.5
    column = (x > start[:, :1]) & (x < stop[:, :1])
    row = (y > start[:, 1:]) & (y < stop[:, 1:])
    return row[:, None, :, None] & column[:, None, None, :]
