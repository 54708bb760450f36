"""Where the pixels of a linearly resized image lie between those of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, input_value
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
    """

    how: str
    small: int
    large: int
    scale: float

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
        first, step = self.line
        at = np.clip(np.arange(self.large) * step + first, 0, self.small - 1)
        before = at.astype(np.int32)
        behind = np.minimum(before + 1, self.small - 1)
        return np.stack([before, behind], 1), at - before


def interpolation(node: Node) -> tuple[Axis, Axis] | None:
    """How a linear Resize of an image goes along rows and columns, or None where it does something else."""
    image, made = image_shape(node.inputs[0]), image_shape(node.outputs[0])
    how = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    if image is None or made is None or image[0] != made[0] or how not in CENTRES:
        return None
    if node.attrs.get("mode", "nearest") != "linear" or node.attrs.get("antialias", 0):
        return None
    if "axes" in node.attrs or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    scales = input_value(node, 2)
    if scales is None or not scales.size:
        given = [made[i] / image[i] for i in (1, 2)]
    else:
        given = [float(s) for s in scales.reshape(-1)[2:]]
    down, right = (Axis(how, image[i], made[i], given[i - 1]) for i in (1, 2))
    return down, right
