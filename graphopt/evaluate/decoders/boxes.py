"""Detectors that give corners and scores: nothing is left to decode but the units.

Ultra-Light face detector: boxes in fractions of the image, scores (background, face)
RetinaNet of the zoo with `decode=True`: boxes in pixels, scores without a background
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.evaluate.decoders.base import Array, Candidates, Decoder, Shapes


@dataclass(frozen=True)
class UltraLight(Decoder):
    """Scores (batch, n, 2) and boxes (batch, n, 4)."""

    name: ClassVar[str] = "ultra-light"
    preprocess: ClassVar[str] = "stretch, rgb, mean=127/255, std=128/255"

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:  # noqa: ARG002
        """Two columns of scores, four of boxes."""
        return _columns(outputs) == [2, 4]

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """Faces are class 0."""
        scores, boxes = sorted(outputs.values(), key=lambda v: v.shape[2])
        whole = np.array([size[1], size[0]] * 2, np.float32)
        return [Candidates(b * whole, s[:, 1:]) for b, s in zip(boxes, scores, strict=True)]


@dataclass(frozen=True)
class Retina(Decoder):
    """Outputs called boxes (batch, n, 4) and scores (batch, n, classes)."""

    name: ClassVar[str] = "retinanet"
    preprocess: ClassVar[str] = (
        "letterbox, top-left, pad=0, mean=0.485,0.456,0.406, std=0.229,0.224,0.225"
    )

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:  # noqa: ARG002
        """Their names, and more than two classes."""
        return set(outputs) == {"boxes", "scores"} and (_columns(outputs) or [0])[-1] > 4

    def decode(
        self,
        outputs: Mapping[str, Array],
        size: tuple[int, int],  # noqa: ARG002
    ) -> list[Candidates]:
        """As they are."""
        pairs = zip(outputs["boxes"], outputs["scores"], strict=True)
        return [Candidates(boxes, scores) for boxes, scores in pairs]


def _columns(outputs: Shapes) -> list[int] | None:
    shapes = list(outputs.values())
    if len(shapes) != 2 or any(len(s) != 3 or not isinstance(s[2], int) for s in shapes):
        return None
    return sorted(int(s[2]) for s in shapes)
