"""Random changes of a batch of images, on the device the batch is on.

    flip                 mirrored left to right, every second one
    shift=0.1            moved by up to a tenth of the width and of the height
    zoom=0.2             larger or smaller by up to a fifth
    contrast=0.2         values stretched around the image's mean by up to a fifth
    brightness=0.1       values moved by up to a tenth of the image's standard deviation
    "none"               nothing

Distillation shows teacher and student the same changed images, so any change is right that leaves images
the teacher understands. What is drawn depends on the seed of the step alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.registry import unknown

_KNOWN = ("flip", "shift", "zoom", "contrast", "brightness")


@dataclass(frozen=True)
class Augment:
    """How images are changed; see the module's text. All are shares, 0 for none."""

    flip: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Reads "flip shift=0.1 zoom=0.2".

        Raises:
            UsageError: a word that is not known, or a share that is no number from 0 to 1.
        """
        values: dict[str, float] = {}
        for item in text.replace(",", " ").split():
            name, equals, value = item.partition("=")
            if name == "none" and not equals:
                continue
            if name not in _KNOWN:
                raise UsageError(unknown("augmentation", name, _KNOWN))
            values[name] = _share(name, value) if equals else 0.5
        return cls(**values)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of images (N, C, H, W); anything else comes back as it is."""
        if images.dim() != 4 or not images.is_floating_point():
            return images
        if self.contrast or self.brightness:
            images = self._values(images, generator)
        if self.flip or self.shift or self.zoom:
            images = self._places(images, generator)
        return images

    def _values(self, images: Tensor, generator: torch.Generator) -> Tensor:
        wide = (-1, 1, 1, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        spread = images.std((1, 2, 3), keepdim=True)
        stretch = 1 + self.contrast * _drawn(images, generator).view(wide)
        move = self.brightness * _drawn(images, generator).view(wide) * spread
        return (images - mean) * stretch + mean + move

    def _places(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One sampling for all: mirror, size and place."""
        if not self.zoom:
            return self._whole_pixels(images, generator)
        size = 1 / (1 + self.zoom * _drawn(images, generator))
        mirror = 1 - 2 * (_drawn(images, generator) < 2 * self.flip - 1).to(images)
        transform = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
        transform[:, 0, 0], transform[:, 1, 1] = size * mirror, size
        transform[:, 0, 2] = 2 * self.shift * _drawn(images, generator)
        transform[:, 1, 2] = 2 * self.shift * _drawn(images, generator)
        grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _whole_pixels(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Without zoom nothing is interpolated: pixels stay what they are, the border is repeated."""
        n, _, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(n, -1)
        columns = torch.arange(width, device=images.device).expand(n, -1)
        mirror = _drawn(images, generator) < 2 * self.flip - 1
        columns = torch.where(mirror[:, None], width - 1 - columns, columns)
        down = (self.shift * height * _drawn(images, generator)).round().long()
        right = (self.shift * width * _drawn(images, generator)).round().long()
        rows = (rows + down[:, None]).clamp(0, height - 1)
        columns = (columns + right[:, None]).clamp(0, width - 1)
        images = images.gather(2, rows[:, None, :, None].expand_as(images))
        return images.gather(3, columns[:, None, None, :].expand_as(images))


def _drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [-1, 1) per image; drawn on the CPU, so that every device draws the same."""
    drawn = torch.rand(len(images), generator=generator) * 2 - 1
    return drawn.to(images)


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"augmentation {name}={text}: write a number from 0 to 1")
    return value
