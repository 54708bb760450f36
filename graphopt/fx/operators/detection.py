"""Operators of detectors: sampling at computed positions, regions, choosing boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.slots import Ints, Scalar, ints, number

_GRID_MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest"}
_GRID_MODES |= {"cubic": "bicubic", "bicubic": "bicubic"}


def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """x (N, C, ...) sampled at grid (N, ..., positions from -1 to 1, last axis of x first)."""
    # In the wider of both types: positions in 16 bits are too coarse.
    kind = torch.promote_types(x.dtype, grid.dtype)
    how = (_GRID_MODES[mode], padding_mode, bool(align_corners))
    return functional.grid_sample(x.to(kind), grid.to(kind), *how).to(x.dtype)


def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    """The positions that theta (N, 2, 3) or (N, 3, 4) maps an image of a size to."""
    return functional.affine_grid(theta, ints(size), align_corners=bool(align_corners))


# --- regions ----------------------------------------------------------------------------------


def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """The mean (or maximum) of samples in a raster of bins over every region, (regions, C, h, w)."""
    half_pixel = coordinate_transformation_mode == "half_pixel"
    boxes = rois * spatial_scale - (0.5 if half_pixel else 0.0)
    sides = boxes[:, 2:] - boxes[:, :2]
    if not half_pixel:
        sides = sides.clamp_min(1.0)
    out = torch.tensor([output_width, output_height], device=x.device)
    bins = sides / out
    counts = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.detach().ceil()
    pieces, order = [], []
    # Regions with the same number of samples per bin go together.
    for count_x, count_y in counts.long().unique(dim=0).tolist():
        same = (counts == counts.new_tensor([count_x, count_y])).all(1).nonzero().squeeze(1)
        at_x = _positions(boxes[same, 0], bins[same, 0], output_width, count_x)
        at_y = _positions(boxes[same, 1], bins[same, 1], output_height, count_y)
        pieces.append(_pooled(x, batch_indices[same], at_y, at_x, mode))
        order.append(same)
    if not pieces:
        return _nothing(x, output_height, output_width)
    return torch.cat(pieces).index_select(0, torch.cat(order).argsort())


def _positions(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> Tensor:
    """Where samples lie along one axis, (regions, bins, samples)."""
    at_bin = torch.arange(bins, device=start.device, dtype=start.dtype).reshape(-1, 1)
    inside = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    size = bin_size.reshape(-1, 1, 1)
    # In this order, as ONNX Runtime rounds.
    return start.reshape(-1, 1, 1) + at_bin * size + inside * size / max(samples, 1)


def _corners(at: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two places around every position with their weights, which are 0 outside the image."""
    inside = (at >= -1) & (at <= size)
    held = at.clamp(0, size - 1)
    low = held.detach().floor().clamp(0, size - 1)
    share = torch.where(inside, held - low, torch.zeros_like(held))
    rest = torch.where(inside, 1 - (held - low), torch.zeros_like(held))
    low_at = low.long()
    return (low_at, rest), ((low_at + 1).clamp(max=size - 1), share)


def _pooled(x: Tensor, images: Tensor, at_y: Tensor, at_x: Tensor, mode: str) -> Tensor:
    """Samples at every pair of positions, taken together per bin."""
    height, width = x.shape[2:]
    regions, bins_y, samples_y = at_y.shape
    bins_x, samples_x = at_x.shape[1:]
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    places, weights = [], []
    for y, weight_y in _corners(at_y, height):
        for column, weight_x in _corners(at_x, width):
            # (regions, bins y, bins x, samples y, samples x)
            line = (images.long().reshape(-1, 1, 1) * height + y)[:, :, None, :, None]
            places.append(line * width + column[:, None, :, None, :])
            weights.append(weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :])
    samples = samples_y * samples_x
    at = torch.stack(places, -1).reshape(-1, samples * 4)
    weight = torch.stack(weights, -1).reshape(-1, samples * 4).to(x.dtype)
    if mode == "avg":
        # A bag adds up rows with weights without ever holding all of them.
        pooled = functional.embedding_bag(
            at, rows, mode="sum", per_sample_weights=weight / max(samples, 1)
        )
    else:
        # ONNX Runtime takes the largest weighted corner, not the largest interpolated value.
        pooled = (rows[at] * weight.unsqueeze(-1)).amax(1)
    return pooled.reshape(regions, bins_y, bins_x, -1).permute(0, 3, 1, 2)


def _nothing(x: Tensor, height: int, width: int) -> Tensor:
    """What comes of no regions, which still has a gradient."""
    return x[:0, :, :1, :1].expand(-1, -1, height, width)


def max_roi_pool(
    x: Tensor, rois: Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> Tensor:
    """The largest value in every bin of a raster over every region (image, x1, y1, x2, y2)."""
    pooled = [_largest_in_bins(x, roi, pooled_shape, spatial_scale) for roi in rois.tolist()]
    return torch.stack(pooled) if pooled else _nothing(x, *pooled_shape)


def _largest_in_bins(
    x: Tensor, roi: Sequence[float], bins: Sequence[int], spatial_scale: float
) -> Tensor:
    image, *corners = roi
    # Half is rounded away from 0, as C does.
    left, top, right, bottom = (
        int(math.copysign(math.floor(abs(c * spatial_scale) + 0.5), c)) for c in corners
    )
    rows = _bins(top, bottom, bins[0], x.shape[2])
    columns = _bins(left, right, bins[1], x.shape[3])
    whole = x[int(image)]
    empty = whole.new_zeros(whole.shape[0])
    cells = [
        whole[:, y, c].amax((1, 2)) if y.start < y.stop and c.start < c.stop else empty
        for y in rows
        for c in columns
    ]
    return torch.stack(cells, 1).reshape(-1, len(rows), len(columns))


def _bins(first: int, last: int, count: int, size: int) -> list[slice]:
    each = max(last - first + 1, 1) / count
    starts = [min(max(math.floor(i * each) + first, 0), size) for i in range(count)]
    ends = [min(max(math.ceil((i + 1) * each) + first, 0), size) for i in range(count)]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]


# --- choosing boxes ---------------------------------------------------------------------------


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Scalar = 0,
    iou_threshold: Scalar = 0.0,
    score_threshold: Scalar | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """(image, class, box) of the best boxes that overlap no better one of their class too much.

    The result has no gradient; it is worked out on the CPU, where every step is a small one.
    """
    limit = 0 if max_output_boxes_per_class is None else int(number(max_output_boxes_per_class))
    overlap = 0.0 if iou_threshold is None else float(number(iou_threshold))
    least = None if score_threshold is None else float(number(score_threshold))
    corners = _corner_form(boxes.detach().cpu().float(), center=bool(center_point_box))
    held = scores.detach().cpu().float()
    chosen = [
        [image, kind, box]
        for image in range(held.shape[0])
        for kind in range(held.shape[1])
        for box in _best(corners[image], held[image, kind], limit, overlap, least)
    ]
    return torch.tensor(chosen, dtype=torch.int64, device=scores.device).reshape(-1, 3)


def _corner_form(boxes: Tensor, *, center: bool) -> Tensor:
    """Boxes as the smaller and the larger corner, given as middle and sides or as any two corners."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _best(
    boxes: Tensor, scores: Tensor, limit: int, overlap: float, least: float | None
) -> Iterator[int]:
    order = scores.argsort(descending=True, stable=True)
    if least is not None:
        order = order[scores[order] > torch.tensor(least, dtype=scores.dtype)]
    while len(order) and limit > 0:
        best, order = order[0], order[1:]
        yield int(best)
        order = order[~_overlaps(boxes[order], boxes[best], overlap)]
        limit -= 1


def _overlaps(boxes: Tensor, box: Tensor, threshold: float) -> Tensor:
    """Which boxes share more than `threshold` of their union with a box."""
    sides = (torch.minimum(boxes[:, 2:], box[2:]) - torch.maximum(boxes[:, :2], box[:2])).clamp_min(
        0
    )
    shared = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    area = (box[2:] - box[:2]).prod()
    counts = (shared > 0) & (areas > 0) & (area > 0)
    return counts & (shared / (areas + area - shared) > torch.tensor(threshold, dtype=boxes.dtype))


ROWS: dict[str, Any] = {
    "AffineGrid": affine_grid,
    "GridSample": grid_sample,
    "MaxRoiPool": max_roi_pool,
    "NonMaxSuppression": non_max_suppression,
    "RoiAlign": roi_align,
}
