"""The backbones Darknet-53 (yolov3.cfg) and CSPDarknet-53 (yolov4.cfg).

Both give the maps at strides 8, 16 and 32, with 256, 512 and 1024 channels (`taps`); `width` is a factor
for all channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphopt.zoo.layers import ConvBn, ConvBnResidual, scaled

BLOCKS = (1, 2, 8, 8, 4)  # residuals per stage, the same in both
CHANNELS = (64, 128, 256, 512, 1024)


def taps(width: float = 1.0) -> tuple[int, ...]:
    """Channels of the maps at strides 8, 16 and 32."""
    return tuple(scaled(channels, width) for channels in CHANNELS[2:])


class Darknet53(nn.Module):
    """A stem and five stages: a stride-2 convolution, then residuals."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(32, width)
        self.stem = ConvBn(3, inputs, 3)
        self.stages = nn.ModuleList()
        for full, blocks in zip(CHANNELS, BLOCKS, strict=True):
            channels, hidden = scaled(full, width), scaled(full // 2, width)
            residuals = (ConvBnResidual(channels, hidden, "leaky") for _ in range(blocks))
            self.stages.append(nn.Sequential(ConvBn(inputs, channels, 3, 2), *residuals))
            inputs = channels

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return last_three(self.stem(image), self.stages)


class CspDarknet53(nn.Module):
    """Darknet-53 with cross-stage-partial stages and Mish."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(32, width)
        self.stem = ConvBn(3, inputs, 3, activation="mish")
        self.stages = nn.ModuleList()
        for full, blocks in zip(CHANNELS, BLOCKS, strict=True):
            channels, half = scaled(full, width), scaled(full // 2, width)
            self.stages.append(CspStage(inputs, channels, half, blocks))
            inputs = channels

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return last_three(self.stem(image), self.stages)


class CspStage(nn.Module):
    """Halve the size, send half the channels past the residuals, concatenate, mix.

    The first stage of the cfg keeps all 64 channels on both sides and halves them inside its
    residual; the others halve them at the split.
    """

    def __init__(self, inputs: int, channels: int, half: int, blocks: int) -> None:
        super().__init__()
        split = channels if blocks == 1 else half
        self.down = ConvBn(inputs, channels, 3, 2, "mish")
        self.past = ConvBn(channels, split, 1, activation="mish")
        self.enter = ConvBn(channels, split, 1, activation="mish")
        self.residuals = nn.Sequential(
            *(ConvBnResidual(split, half, "mish") for _ in range(blocks))
        )
        self.leave = ConvBn(split, split, 1, activation="mish")
        self.mix = ConvBn(2 * split, channels, 1, activation="mish")

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        inner = self.leave(self.residuals(self.enter(x)))
        return self.mix(torch.cat((inner, self.past(x)), dim=1))


def last_three(x: Tensor, stages: nn.ModuleList) -> tuple[Tensor, ...]:
    """What the last three stages give, shallowest first."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps[-3:])
