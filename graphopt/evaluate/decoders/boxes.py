"""Ultra-Light face detector: corners in fractions of the image, scores (background, face)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.evaluate.decoders.base import Array, Candidates, Decoder, Shapes, columns


@dataclass(frozen=True)
class UltraLight(Decoder):
    """Scores (batch, n, 2) and boxes (batch, n, 4)."""

    name: ClassVar[str] = "ultra-light"
    preprocess: ClassVar[str] = "stretch, rgb, mean=127/255, std=128/255"

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:  # noqa: ARG002
        """Two columns of scores, four of boxes."""
        return columns(outputs) == [2, 4]

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """Faces are class 0."""
        scores, boxes = sorted(outputs.values(), key=lambda v: v.shape[2])
        whole = np.array([size[1], size[0]] * 2, np.float32)
        return [Candidates(b * whole, s[:, 1:]) for b, s in zip(boxes, scores, strict=True)]
