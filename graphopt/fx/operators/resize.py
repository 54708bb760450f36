"""Resize: every mode of ONNX, with torch's kernels where they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graphopt.fx.slots import Floats, Ints, axis_of, ints

_Array = np.ndarray[Any, Any]
# Up to so many taps are added up one by one; a matrix takes more memory where it is mostly zeros.
_FEW = 4
# ONNX Runtime takes what is this close to the middle of two values for the middle.
_CLOSE = 1e-6
_CROP = "tf_crop_and_resize"
_TORCH_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class _Axis(NamedTuple):
    """How one axis is sampled."""

    before: int
    after: int
    scale: float
    coordinates: str
    start: float = 0.0
    end: float = 1.0


def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """x sampled at another resolution, axis by axis; give `scales` or `sizes`."""
    along = [axis_of(a, x.dim()) for a in axes] if axes is not None else list(range(x.dim()))
    steps = _axes(x, along, scales, sizes, coordinate_transformation_mode, keep_aspect_ratio_policy)
    if coordinate_transformation_mode == _CROP:
        steps = _with_region(steps, along, roi)
    elif all(s.after == s.before for s in steps.values()):
        return x  # as ONNX Runtime does, whatever the scales are
    fast = _by_torch(x, steps, mode, nearest_mode) if not antialias else None
    if fast is not None:
        return fast
    outside: list[Tensor] = []
    for axis, step in steps.items():
        if step.coordinates == _CROP:
            outside.append(_outside(step, axis, x))
        if mode == "nearest":
            at = torch.from_numpy(_nearest(step, nearest_mode)).to(x.device)
            x = x.index_select(axis, at)
        else:
            how = (cubic_coeff_a, bool(exclude_outside), bool(antialias))
            x = _mixed(x, axis, *_taps(step, mode, *how))
    for there in outside:
        x = torch.where(there, extrapolation_value, x)
    return x


def _mixed(x: Tensor, axis: int, places: _Array, weights: _Array) -> Tensor:
    """The sum of weights times elements of an axis, tap by tap."""
    if len(places) > _FEW:
        table = np.zeros((places.shape[1], x.shape[axis]), np.float32)
        for at, weight in zip(places, weights, strict=True):
            np.add.at(table, (np.arange(len(at)), at), weight)
        return (x.movedim(axis, -1) @ torch.from_numpy(table).to(x).mT).movedim(-1, axis)
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    parts = [
        x.index_select(axis, torch.from_numpy(at).to(x.device))
        * torch.from_numpy(weight).to(x).reshape(shape)
        for at, weight in zip(places, weights, strict=True)
    ]
    return sum(parts[1:], start=parts[0])


def _axes(
    x: Tensor,
    along: list[int],
    scales: Floats | None,
    sizes: Ints | None,
    coordinates: str,
    policy: str,
) -> dict[int, _Axis]:
    """The axes that change."""
    before = [x.shape[a] for a in along]
    if sizes is not None and len(wanted := ints(sizes)):
        ratio = [w / b for w, b in zip(wanted, before, strict=True)]
        if policy != "stretch":
            one = min(ratio) if policy == "not_larger" else max(ratio)
            ratio = [one] * len(ratio)
            wanted = [math.floor(one * b + 0.5) for b in before]
    else:
        assert scales is not None
        ratio = scales.tolist() if isinstance(scales, Tensor) else list(scales)
        # In single precision as in ONNX Runtime: 5 times 1.4 is 7.
        wanted = [int(np.float32(b) * np.float32(r)) for b, r in zip(before, ratio, strict=True)]
    return {
        axis: _Axis(b, w, r, coordinates)
        for axis, b, w, r in zip(along, before, wanted, ratio, strict=True)
        if w != b or r != 1 or coordinates == _CROP
    }


def _with_region(steps: dict[int, _Axis], along: list[int], roi: Floats | None) -> dict[int, _Axis]:
    """The axes with the part of each that is taken: all starts, then all ends."""
    assert roi is not None
    parts = roi.tolist() if isinstance(roi, Tensor) else list(roi)
    ends = dict(zip(along, zip(parts[: len(along)], parts[len(along) :], strict=True), strict=True))
    return {a: s._replace(start=ends[a][0], end=ends[a][1]) for a, s in steps.items()}


def _outside(step: _Axis, axis: int, x: Tensor) -> Tensor:
    """Which places of an axis of the result lie outside of x, to be broadcast."""
    at = _sources(step)
    there = torch.from_numpy((at < 0) | (at > step.before - 1)).to(x.device)
    return there.reshape([-1 if i == axis else 1 for i in range(x.dim())])


def _by_torch(x: Tensor, steps: dict[int, _Axis], mode: str, nearest_mode: str) -> Tensor | None:
    """What torch's interpolation does alike, else None."""
    spatial = list(range(2, x.dim()))
    if set(steps) - set(spatial) or len(spatial) not in _TORCH_LINEAR:
        return None
    each = [steps.get(a, _Axis(x.shape[a], x.shape[a], 1.0, "")) for a in spatial]
    wanted = [s.after for s in each]
    whole = all(s.after % s.before == 0 and s.after == s.before * s.scale for s in each)
    names = {s.coordinates for s in steps.values()}
    if mode == "nearest":
        alike = names <= {"asymmetric"} and nearest_mode == "floor"
        alike |= names <= {"half_pixel", "pytorch_half_pixel"} and nearest_mode.startswith("round")
        return functional.interpolate(x, wanted, mode="nearest") if whole and alike else None
    corners = names <= {"align_corners"}
    if mode != "linear" or not (corners or names <= {"half_pixel", "pytorch_half_pixel"}):
        return None
    if not all(_is_exact(s, corners=corners) for s in each):
        return None
    return functional.interpolate(
        x, wanted, mode=_TORCH_LINEAR[len(spatial)], align_corners=corners
    )


def _is_exact(axis: _Axis, *, corners: bool) -> bool:
    """Whether torch and ONNX Runtime get positions without rounding, which they do differently.

    In images of 500 pixels the difference reaches 3e-4 of a pixel.
    """
    if axis.after == axis.before:
        return axis.scale == 1
    if 1 in (axis.before, axis.after):
        return False
    less = 1 if corners else 0
    ratio = (axis.after - less) / (axis.before - less)
    return math.frexp(ratio)[0] == 0.5 and (corners or axis.scale == ratio)


# --- where every element is taken from --------------------------------------------------------


def _sources(axis: _Axis) -> _Array:
    """The position in the input of every element of the result, in single precision as in ONNX Runtime."""
    at = np.arange(axis.after, dtype=np.float32)
    scale = np.float32(axis.scale)
    if axis.coordinates == "asymmetric":
        return at / scale
    if axis.coordinates == "align_corners":
        return at * np.float32(axis.before - 1) / np.float32(max(axis.after - 1, 1))
    if axis.coordinates == _CROP:
        start, end = np.float32(axis.start), np.float32(axis.end)
        last = np.float32(axis.before - 1)
        if axis.after == 1:
            return np.full(1, (start + end) * last / 2, np.float32)
        return start * last + at * (end - start) * last / np.float32(axis.after - 1)
    if axis.coordinates == "pytorch_half_pixel" and axis.after == 1:
        return np.zeros(1, np.float32)
    centred = (at + np.float32(0.5)) / scale - np.float32(0.5)
    if axis.coordinates == "half_pixel_symmetric":
        adjustment = np.float32(axis.after) / (scale * np.float32(axis.before))
        return np.float32(axis.before / 2) * (1 - adjustment) + centred
    return centred


@lru_cache(maxsize=256)
def _nearest(axis: _Axis, nearest_mode: str) -> _Array:
    at = _sources(axis).astype(np.float64)
    chosen = {
        "floor": np.floor(at),
        "ceil": np.ceil(at),
        "round_prefer_floor": np.ceil(at - 0.5 - _CLOSE),
        "round_prefer_ceil": np.floor(at + 0.5 + _CLOSE),
    }[nearest_mode]
    return np.clip(chosen, 0, axis.before - 1).astype(np.int64)


@lru_cache(maxsize=256)
def _taps(
    axis: _Axis, mode: str, a: float, exclude_outside: bool, antialias: bool
) -> tuple[_Array, _Array]:
    """Which elements every element of the result is mixed of, and with what weights: (taps, result)."""
    at = _sources(axis).astype(np.float64)
    reach, kernel = (1, _triangle) if mode == "linear" else (2, lambda d: _cubic(d, a))
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    if mode == "linear" and not antialias:
        at = np.clip(at, 0.0, axis.before - 1.0)
    span = math.ceil(reach / shrink)
    taps = np.floor(at) + np.arange(1 - span, span + 1)[:, None]
    weights = kernel((taps - at) * shrink)
    if exclude_outside:
        weights = np.where((taps >= 0) & (taps < axis.before), weights, 0.0)
    if exclude_outside or antialias:
        weights = weights / weights.sum(0)
    places = np.clip(taps, 0, axis.before - 1).astype(np.int64)
    return places, weights.astype(np.float32)


def _triangle(distance: _Array) -> _Array:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: _Array, a: float) -> _Array:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


ROWS: dict[str, Any] = {"Resize": resize}
