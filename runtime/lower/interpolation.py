"""Which pixels of an image those of a resized one lie at, or between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_of, input_value, static_shape
from graphopt.runtime.lower.layout import image_shape

# What ONNX calls ways to say where the pixels of a result lie.
CENTRES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@dataclass(frozen=True)
class Axis:
    """One axis of a resized image.

    Attributes:
        how: coordinate_transformation_mode of ONNX.
        small: pixels of the image.
        large: pixels of the result.
        scale: as it is given; not always the ratio of the two.
        nearest: nearest_mode of ONNX where pixels are taken as they are, "" where they are interpolated.
    """

    how: str
    small: int
    large: int
    scale: float
    nearest: str = ""

    @property
    def line(self) -> tuple[float, float]:
        """Where the first pixel of the result lies in the image, and how far each next one."""
        if self.how == "align_corners":
            return 0.0, (self.small - 1) / (self.large - 1) if self.large > 1 else 0.0
        step = 1 / self.scale
        if self.how == "asymmetric" or (self.how == "pytorch_half_pixel" and self.large == 1):
            return 0.0, step
        return 0.5 * step - 0.5, step

    def neighbours(self) -> tuple[Any, Any]:
        """(large, 2) pixels before and behind each of the result, and (large,) shares of the latter."""
        if self.nearest:
            at = np.clip(_ROUND[self.nearest](self._places()), 0, self.small - 1).astype(np.int32)
            return np.stack([at, at], 1), np.zeros(self.large)
        first, step = self.line
        at = np.clip(np.arange(self.large) * step + first, 0, self.small - 1)
        before = at.astype(np.int32)
        behind = np.minimum(before + 1, self.small - 1)
        return np.stack([before, behind], 1), at - before

    def _places(self) -> Any:
        """Where pixels lie, rounded as ONNX Runtime rounds: what is nearest may hang on the last bit."""
        one = np.float32
        index, scale = np.arange(self.large, dtype=one), one(self.scale)
        if self.how == "align_corners":
            last = max(self.large - 1, 1)
            return index * one(self.small - 1) / one(last)
        if self.how == "asymmetric" or (self.how == "pytorch_half_pixel" and self.large == 1):
            return index / scale if self.how == "asymmetric" else index * one(0)
        return (index + one(0.5)) / scale - one(0.5)


_ROUND: dict[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
}


def interpolation(node: Node) -> tuple[Axis, Axis] | None:
    """How a Resize of an image goes along rows and columns, or None where it does something else."""
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    how = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    mode = str(node.attrs.get("mode", "nearest"))
    nearest = str(node.attrs.get("nearest_mode", "round_prefer_floor")) if mode == "nearest" else ""
    if image is None or made is None or image[0] != made[0] or how not in CENTRES:
        return None
    if mode not in ("nearest", "linear") or node.attrs.get("antialias", 0):
        return None
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    scales = _scales(node, image, made)
    if scales is None:
        return None
    down, right = (Axis(how, image[i], made[i], scales[i - 1], nearest) for i in (1, 2))
    return down, right


def _scales(
    node: Node, image: tuple[int, int, int], made: tuple[int, int, int]
) -> list[float] | None:
    """Those of rows and columns: what is given, or what the sizes come to; None where run time tells."""
    given = input_of(node, 2)
    if given is None or static_shape(given) == (0,):
        return [made[i] / image[i] for i in (1, 2)]
    values = input_value(node, 2)
    if values is None:
        return None
    axes = [int(a) % 4 for a in node.attrs.get("axes", range(4))]
    known = dict(zip(axes, (float(v) for v in values.reshape(-1)), strict=True))
    return [known.get(axis, 1.0) for axis in (2, 3)]
