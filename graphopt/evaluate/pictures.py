"""From pictures to inputs, and from boxes on inputs back to boxes on pictures.

    x_input = x_image * scale + offset,    x_image = (x_input - offset) / scale

The preprocessing is that of graphopt.data and one word more: `top-left` puts a letterboxed picture
into the corner instead of the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.images import METADATA, Preprocess, preprocess_for
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph

Array = np.ndarray[Any, Any]

_CORNER = "top-left"


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on the input. All in pixels, x before y."""

    scale: tuple[float, float]
    offset: tuple[float, float]
    image: tuple[int, int]

    def to_image(self, boxes: Array) -> Array:
        """Boxes (n, 4) x1 y1 x2 y2 on the input as boxes on the picture, cut at its edges."""
        moved = (boxes.reshape(-1, 2, 2) - self.offset) / self.scale
        return np.clip(moved, 0, self.image).reshape(-1, 4)

    def to_input(self, boxes: Array) -> Array:
        """Boxes (n, 4) on the picture as boxes on the input."""
        return (boxes.reshape(-1, 2, 2) * self.scale + self.offset).reshape(-1, 4)


@dataclass(frozen=True)
class Pictures:
    """Makes inputs of pictures."""

    how: Preprocess
    corner: bool = False

    @classmethod
    def for_graph(cls, graph: Graph, text: str, usual: str = "") -> Pictures:
        """As `text` says, the rest as the model says it was trained, or as is `usual`, or from its input.

        Raises:
            UsageError: text that cannot be read, or an input that takes no pictures.
        """
        said = graph.metadata.get(METADATA) or usual
        words = [w.strip() for w in f"{said}, {text}".split(",")]
        how = preprocess_for(graph, ", ".join(w for w in words if w and w != _CORNER))
        return cls(how, corner=_CORNER in words and how.fit == "letterbox")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        assert self.how.size is not None  # `preprocess_for` fills it in
        return self.how.size

    def input_of(self, image: Path | Array) -> tuple[Array, Placement]:
        """The input (without a batch axis) and where the picture lies on it.

        Raises:
            UsageError: a file that is no image, or an array of another size than the input.
        """
        if not isinstance(image, Path):
            height, width = self.size
            return self._of_array(image), Placement((1, 1), (0, 0), (width, height))
        placed = self.placement(*image_size(image))
        made = self.how.apply(image)
        if not self.corner:
            return made, placed
        axes = (1, 2) if self.how.layout == "nchw" else (0, 1)
        left, top = (int(o) for o in placed.offset)
        rolled = np.roll(made, (-top, -left), axes)  # the padding is the same everywhere
        return rolled, Placement(placed.scale, (0, 0), placed.image)

    def placement(self, width: int, height: int) -> Placement:
        """Where a picture of this size lies on the input, in the middle where it leaves room."""
        high, wide = self.size
        if self.how.fit == "stretch":
            return Placement((wide / width, high / height), (0, 0), (width, height))
        ratios = high / height, wide / width
        ratio = min(ratios) if self.how.fit == "letterbox" else max(ratios)
        scaled = max(1, round(width * ratio)), max(1, round(height * ratio))
        room = wide - scaled[0], high - scaled[1]
        # graphopt.data rounds what is left over, and what is cut off, down
        left, top = (r // 2 if r >= 0 else -(-r // 2) for r in room)
        return Placement((scaled[0] / width, scaled[1] / height), (left, top), (width, height))

    def _of_array(self, image: Array) -> Array:
        how = self.how
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            return image
        if image.shape[:2] != self.size:
            raise UsageError(
                f"pictures of {image.shape[0]}x{image.shape[1]} in an array; the model takes "
                f"{self.size[0]}x{self.size[1]}"
            )
        pixels = image[:, :, ::-1] if how.color == "bgr" else image
        mean = np.asarray(how.mean or (0.0,), np.float32)
        std = np.asarray(how.std or (1.0,), np.float32)
        scaled = (pixels.astype(np.float32) * np.float32(how.scale) - mean) / std
        return scaled.transpose(2, 0, 1) if how.layout == "nchw" else scaled


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file as it is shown (cameras store turned pictures).

    Raises:
        UsageError: a file that is no image, naming it.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(0x0112, 1) >= 5
            width, height = opened.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
    return (height, width) if turned else (width, height)
