"""How much boxes overlap, differentiable; boxes (..., 4) are x1 y1 x2 y2 in any unit.

    IoU  = |A and B| / |A or B|
    GIoU = IoU - (|C| - |A or B|) / |C|          C: the smallest box around both
    DIoU = IoU - d^2 / c^2                       d: between the centres, c: the diagonal of C
    CIoU = DIoU - a v,   v = 4 / pi^2 (atan(w_B / h_B) - atan(w_A / h_A))^2,   a = v / (1 - IoU + v)

Values and gradients are finite for boxes without width or height, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_LEAST = 1e-7  # below every area and length that means something


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0 to 1; shapes (..., 4) that broadcast, to (...)."""
    shared, union = _areas(a, b)
    return shared / union.clamp_min(_LEAST)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalized IoU, -1 to 1 (Rezatofighi et al., CVPR 2019): falls with the gap between boxes."""
    shared, union = _areas(a, b)
    size = _around(a, b)
    around = size[..., 0] * size[..., 1]
    gap = (around - union) / around.clamp_min(_LEAST)
    return shared / union.clamp_min(_LEAST) - gap


def diou(a: Tensor, b: Tensor) -> Tensor:
    """Distance IoU, -1 to 1 (Zheng et al., AAAI 2020)."""
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    diagonal = _around(a, b).square().sum(-1)
    return iou(a, b) - centres.square().sum(-1) / diagonal.clamp_min(_LEAST)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU (Zheng et al., AAAI 2020); the weight of the shape term has no gradient."""
    turn = _angle(b) - _angle(a)
    shape = 4 / math.pi**2 * turn.square()
    with torch.no_grad():
        weight = shape / (1 - iou(a, b) + shape).clamp_min(_LEAST)
    return diou(a, b) - weight * shape


OVERLAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou,
    "giou": giou,
    "diou": diou,
    "ciou": ciou,
}


def size_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 2) width and height that share a centre, as anchors are compared."""
    shared = torch.minimum(a, b).prod(-1)
    return shared / (a.prod(-1) + b.prod(-1) - shared).clamp_min(_LEAST)


def corners(xy: Tensor, wh: Tensor) -> Tensor:
    """Centres and sizes (..., 2) as x1 y1 x2 y2 (..., 4)."""
    return torch.cat((xy - wh / 2, xy + wh / 2), dim=-1)


def centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The centres and the sizes (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """What both cover, and what either covers."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    return shared, _area(a) + _area(b) - shared


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def _around(a: Tensor, b: Tensor) -> Tensor:
    """Width and height (..., 2) of the smallest box around both."""
    high = torch.maximum(a[..., 2:], b[..., 2:])
    return high - torch.minimum(a[..., :2], b[..., :2])


def _angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.atan(width / height.clamp_min(_LEAST))


# --- many against many, without gradients ---------------------------------------------------------

_AT_ONCE = 1 << 22  # pairs of boxes held in memory
_NEARNESS = 1e-4  # what distance counts beside IoU


def is_above(boxes: Tensor, others: Tensor, threshold: float) -> Tensor:
    """Whether boxes (n, p, 4) have an IoU above `threshold` with any of others (n, m, 4): (n, p)."""
    if not others.shape[1]:
        return torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    images = max(1, _AT_ONCE // (boxes.shape[1] * others.shape[1]))
    parts = zip(boxes.detach().split(images), others.split(images), strict=True)
    return torch.cat([(_table(b, o) > threshold).any(1) for b, o in parts])


def best_pairs(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How boxes (p, 4) and others (n, m, 4), by image, fit each other.

    Returns:
        The largest IoU (n, p) of every box on every image, with which of the others (n, p), and for
        every one of the others the box (n, m) with the largest IoU, of equals the nearest.
    """
    images = max(1, _AT_ONCE // (len(boxes) * others.shape[1]))
    found = []
    for part in others.split(images):
        overlap = _table(boxes[None], part)
        highest, which = overlap.max(1)
        # a small box has one IoU with all that contain it
        nearest = overlap.sub_(_distance(boxes[None], part), alpha=_NEARNESS).argmax(2)
        found.append((highest, which, nearest))
    highest, which, best = (torch.cat(each) for each in zip(*found, strict=True))
    return highest, which, best


def _table(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (n, m, p) of boxes (n or 1, p, 4) and others (n, m, 4).

    Coordinate by coordinate, which is several times faster than in rows of four.
    """
    x1, y1, x2, y2 = (v.contiguous()[:, None] for v in boxes.unbind(-1))
    u1, v1, u2, v2 = (v[..., None] for v in others.unbind(-1))
    shared = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_min_(0)
    shared *= (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_min_(0)
    areas = (x2 - x1).clamp_min(0) * (y2 - y1).clamp_min(0) + (u2 - u1) * (v2 - v1)
    return shared / areas.sub_(shared).clamp_min_(_LEAST)


def _distance(boxes: Tensor, others: Tensor) -> Tensor:
    """How far apart the centres of `_table`'s boxes are, 0 to 1: d^2 / (d^2 + the other's area)."""
    (x, y), (u, v) = (centres(b)[0].unbind(-1) for b in (boxes, others))
    squared = (x[:, None] - u[..., None]).square_() + (y[:, None] - v[..., None]).square_()
    return squared / (squared + _area(others)[..., None]).clamp_min_(_LEAST)
