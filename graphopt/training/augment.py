"""Random changes of a batch of images, on the device the batch is on.

    flip                 mirrored left to right, every second one
    shift=0.1            moved by up to a tenth of the width and of the height
    zoom=0.2             larger or smaller by up to a fifth
    contrast=0.2         values stretched around the image's mean by up to a fifth
    brightness=0.1       values moved by up to a tenth of the image's standard deviation
    hue=0.05             colours turned by up to a twentieth of the circle
    saturation=0.5       colours stronger or weaker by up to half
    mosaic=0.5           every second image made of four of the batch
    "none"               nothing

Distillation shows teacher and student the same changed images, so any change is right that leaves images
the teacher understands. Labelled boxes move with their objects. What is drawn depends on the seed
of the step alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.named import unknown
from graphopt.training.mosaic import mosaics
from graphopt.training.moving import moved

_KNOWN = ("flip", "shift", "zoom", "contrast", "brightness", "hue", "saturation", "mosaic")


@dataclass(frozen=True)
class Augment:
    """How images are changed; see the module's text. All are shares, 0 for none."""

    flip: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    mosaic: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Reads "flip shift=0.1 zoom=0.2"; commas and | separate as well.

        Raises:
            UsageError: a word that is not known, or a share that is no number from 0 to 1.
        """
        values: dict[str, float] = {}
        for item in text.replace(",", " ").replace("|", " ").split():
            name, equals, value = item.partition("=")
            if name == "none" and not equals:
                continue
            if name not in _KNOWN:
                raise UsageError(unknown("augmentation", name, _KNOWN))
            values[name] = _share(name, value) if equals else 0.5
        return cls(**values)

    @overload
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...

    @overload
    def __call__(
        self, images: Tensor, generator: torch.Generator, boxes: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def __call__(
        self, images: Tensor, generator: torch.Generator, boxes: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Changed copies of images, and of their boxes if they are given.

        Where an image was moved away there are repeated borders and reflections; with boxes, the
        image's mean, so that no object appears a second time without a box.

        Args:
            images: (N, C, H, W) or (N, H, W, C) with one or three channels; anything else comes
                back as it is.
            generator: what is drawn comes from it.
            boxes: (N, M, 5) of class, x1, y1, x2, y2 in pixels; class -1 fills up. They come back cut
                at the edges, with class -1 where less than a tenth stays visible.
        """
        made, found = images, boxes
        if images.dim() == 4 and images.is_floating_point():
            is_last = images.shape[1] not in (1, 3) and images.shape[3] in (1, 3)
            made = images.permute(0, 3, 1, 2) if is_last else images
            made, found = self._changed(made, generator, boxes)
            made = made.permute(0, 2, 3, 1) if is_last else made
        return made if found is None else (made, found)

    def _changed(
        self, images: Tensor, generator: torch.Generator, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.mosaic:
            images, boxes = mosaics(images, boxes, self.mosaic, generator)
        if self.contrast or self.brightness:
            images = self._values(images, generator)
        if (self.hue or self.saturation) and images.shape[1] == 3:
            images = self._colours(images, generator)
        if self.flip or self.shift or self.zoom:
            places = self._places if self.zoom else self._whole_pixels
            images, boxes = places(images, generator, boxes)
        return images, boxes

    def _values(self, images: Tensor, generator: torch.Generator) -> Tensor:
        wide = (-1, 1, 1, 1)
        mean = images.mean((1, 2, 3), keepdim=True)
        spread = images.std((1, 2, 3), keepdim=True)
        stretch = 1 + self.contrast * _drawn(images, generator).view(wide)
        move = self.brightness * _drawn(images, generator).view(wide) * spread
        return (images - mean) * stretch + mean + move

    def _colours(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Colour is what a pixel's channels differ from their mean by; it is turned and scaled.

            x' = mean + s (cos(h) (x - mean) + sin(h) / sqrt(3) [1 1 1] x (x - mean))

        Grey stays grey and the mean of a pixel stays, whatever the images were normalised with.
        """
        turn = 2 * math.pi * self.hue * _drawn(images, generator).view(-1, 1, 1)
        strength = 1 + self.saturation * _drawn(images, generator).view(-1, 1, 1)
        mean = images.new_full((3, 3), 1 / 3)
        cross = images.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        colour = torch.eye(3, dtype=images.dtype, device=images.device) - mean
        mixed = mean + strength * (turn.cos() * colour + turn.sin() * cross)
        return (mixed @ images.flatten(2)).view_as(images)

    def _places(
        self, images: Tensor, generator: torch.Generator, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One sampling for all: mirror, size and place."""
        size = 1 / (1 + self.zoom * _drawn(images, generator))
        mirror = 1 - 2 * (_drawn(images, generator) < 2 * self.flip - 1).to(images)
        transform = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
        transform[:, 0, 0], transform[:, 1, 1] = size * mirror, size
        transform[:, 0, 2] = 2 * self.shift * _drawn(images, generator)
        transform[:, 1, 2] = 2 * self.shift * _drawn(images, generator)
        grid = functional.affine_grid(transform, list(images.shape), align_corners=False)
        if boxes is None:
            made = functional.grid_sample(
                images, grid, padding_mode="reflection", align_corners=False
            )
            return made, None
        fill = images.mean((2, 3), keepdim=True)
        made = functional.grid_sample(images - fill, grid, align_corners=False) + fill
        # the sampling goes from what is made to what it is made of, in -1 to 1 around the middle
        half = boxes.new_tensor([images.shape[3], images.shape[2]]) / 2
        factor = transform[:, (0, 1), (0, 1)].to(boxes)
        scale = 1 / factor
        offset = half - scale * half * (1 + transform[:, :, 2].to(boxes))
        return made, _cut(boxes, scale, offset, images)

    def _whole_pixels(
        self, images: Tensor, generator: torch.Generator, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Without zoom nothing is interpolated: pixels stay what they are."""
        n, _, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(n, -1)
        columns = torch.arange(width, device=images.device).expand(n, -1)
        mirror = _drawn(images, generator) < 2 * self.flip - 1
        columns = torch.where(mirror[:, None], width - 1 - columns, columns)
        down = (self.shift * height * _drawn(images, generator)).round().long()
        right = (self.shift * width * _drawn(images, generator)).round().long()
        rows, columns = rows + down[:, None], columns + right[:, None]
        row, column = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        made = images.gather(2, row[:, None, :, None].expand_as(images))
        made = made.gather(3, column[:, None, None, :].expand_as(images))
        if boxes is None:
            return made, None
        is_there = ((rows == row)[:, :, None] & (columns == column)[:, None])[:, None]
        made = torch.where(is_there, made, images.mean((2, 3), keepdim=True))
        sign = torch.where(mirror, -1.0, 1.0).to(boxes)
        across = torch.where(mirror, width + right, -right).to(boxes)
        scale = torch.stack((sign, torch.ones_like(sign)), dim=1)
        return made, _cut(boxes, scale, torch.stack((across, -down.to(boxes)), dim=1), images)


def _cut(boxes: Tensor, scale: Tensor, offset: Tensor, images: Tensor) -> Tensor:
    """The boxes moved and cut at the edges of the images."""
    whole = boxes.new_tensor([images.shape[3], images.shape[2]]).expand(len(boxes), -1)
    return moved(boxes, scale, offset, torch.zeros_like(whole), whole)


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
