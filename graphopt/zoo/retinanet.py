"""RetinaNet (Lin et al. 2017) with ResNet-50-FPN, as mmdetection's retinanet_r50_fpn counts it.

P3 to P7, P6 from C5 as in the paper, two towers of four 3x3 convolutions shared by all levels,
nine anchors a position, sigmoid classes without a background class (80 for COCO).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from graphopt.zoo.layers import Network, scaled
from graphopt.zoo.resnet import EXPANSION, WIDTHS, ResNet50Features

ANCHORS = 9
CHANNELS = 256
PRIOR = 0.01  # the score every anchor starts from, section 4.1 of the paper
RARE = -math.log((1 - PRIOR) / PRIOR)


class RetinaNet(Network):
    """Class maps of the five levels, then box maps of the five levels."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        inside = scaled(CHANNELS, width)
        self.backbone = ResNet50Features(width)
        self.fpn = FeaturePyramid([EXPANSION * scaled(c, width) for c in WIDTHS[1:]], inside)
        self.cls_head = SharedHead(inside, ANCHORS * classes, prior_logit=RARE)
        self.box_head = SharedHead(inside, ANCHORS * 4, prior_logit=0.0)

    def raw(self, image: Tensor) -> tuple[Tensor, ...]:
        _, c3, c4, c5 = self.backbone(image)
        levels = self.fpn(c3, c4, c5)
        return *map(self.cls_head, levels), *map(self.box_head, levels)


class FeaturePyramid(nn.Module):
    """P3 to P5 top-down from C3 to C5, P6 and P7 by stride-2 convolutions from C5."""

    def __init__(self, taps: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(tap, channels, 1) for tap in taps)
        self.smooths = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in taps)
        self.up = nn.Upsample(scale_factor=2)
        self.p6 = nn.Conv2d(taps[-1], channels, 3, 2, 1)
        self.relu = nn.ReLU()
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, ...]:
        m3, m4, m5 = (conv(c) for conv, c in zip(self.laterals, (c3, c4, c5), strict=True))
        m4 = m4 + self.up(m5)
        m3 = m3 + self.up(m4)
        smoothed = (conv(m) for conv, m in zip(self.smooths, (m3, m4, m5), strict=True))
        p6 = self.p6(c5)
        return *smoothed, p6, self.p7(self.relu(p6))


class SharedHead(nn.Module):
    """Four 3x3 convolutions with ReLU and the one that predicts."""

    def __init__(self, channels: int, outputs: int, prior_logit: float) -> None:
        super().__init__()
        tower: list[nn.Module] = []
        for _ in range(4):
            tower += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.tower = nn.Sequential(*tower)
        self.predict = nn.Conv2d(channels, outputs, 3, padding=1)
        self.prior_logit = prior_logit

    def forward(self, level: Tensor) -> Tensor:
        return self.predict(self.tower(level))
