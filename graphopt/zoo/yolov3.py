"""YOLOv3, YOLOv3-SPP and YOLOv3-tiny: the necks and heads of the darknet cfg files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from graphopt.zoo.layers import ConvBn, Network, SpatialPyramidPool, scaled

ANCHORS_PER_SCALE = 3


class YoloV3(Network):
    """A backbone with taps at strides 8, 16 and 32 under the YOLOv3 neck and heads."""

    def __init__(
        self,
        backbone: nn.Module,
        taps: Sequence[int],
        classes: int,
        *,
        width: float = 1.0,
        spp: bool = False,
    ) -> None:
        super().__init__()
        c3, c4, c5 = taps
        w3, w4, w5 = (scaled(channels, width) for channels in (128, 256, 512))
        self.backbone = backbone
        self.neck5 = spp_block(c5, w5) if spp else five_convs(c5, w5)
        self.up5 = upsampler(w5, w4)
        self.neck4 = five_convs(c4 + w4, w4)
        self.up4 = upsampler(w4, w3)
        self.neck3 = five_convs(c3 + w3, w3)
        self.head3 = Head(w3, classes)
        self.head4 = Head(w4, classes)
        self.head5 = Head(w5, classes)

    def raw(self, image: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(image)
        p5 = self.neck5(c5)
        p4 = self.neck4(torch.cat((self.up5(p5), c4), dim=1))
        p3 = self.neck3(torch.cat((self.up4(p4), c3), dim=1))
        return self.head3(p3), self.head4(p4), self.head5(p5)


class YoloV3Tiny(Network):
    """yolov3-tiny.cfg: convolutions and max-pools, heads at strides 16 and 32."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in (16, 32, 64, 128, 256)]
        w3, w4, w5, w6 = (scaled(channels, width) for channels in (128, 256, 512, 1024))
        layers: list[nn.Module] = [ConvBn(3, widths[0], 3)]
        for inputs, outputs in pairwise(widths):
            layers += [nn.MaxPool2d(2), ConvBn(inputs, outputs, 3)]
        self.shallow = nn.Sequential(*layers)
        self.deep = nn.Sequential(
            nn.MaxPool2d(2),
            ConvBn(w4, w5, 3),
            # the cfg pads its pool of stride 1 with nothing; zeros would win over negative values
            nn.ReplicationPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(2, 1),
            ConvBn(w5, w6, 3),
            ConvBn(w6, w4, 1),
        )
        self.up5 = upsampler(w4, w3)
        self.head4 = Head(w4 + w3, classes, hidden=w4)
        self.head5 = Head(w4, classes, hidden=w5)

    def raw(self, image: Tensor) -> tuple[Tensor, ...]:
        c4 = self.shallow(image)
        p5 = self.deep(c4)
        p4 = torch.cat((self.up5(p5), c4), dim=1)
        return self.head4(p4), self.head5(p5)


def five_convs(inputs: int, width: int) -> nn.Sequential:
    """1x1, 3x3, 1x1, 3x3, 1x1, ending `width` wide."""
    return nn.Sequential(
        ConvBn(inputs, width, 1),
        ConvBn(width, 2 * width, 3),
        ConvBn(2 * width, width, 1),
        ConvBn(width, 2 * width, 3),
        ConvBn(2 * width, width, 1),
    )


def spp_block(inputs: int, width: int) -> nn.Sequential:
    """`five_convs` with spatial pyramid pooling in the middle."""
    return nn.Sequential(
        ConvBn(inputs, width, 1),
        ConvBn(width, 2 * width, 3),
        ConvBn(2 * width, width, 1),
        SpatialPyramidPool(),
        ConvBn(4 * width, width, 1),
        ConvBn(width, 2 * width, 3),
        ConvBn(2 * width, width, 1),
    )


def upsampler(inputs: int, outputs: int) -> nn.Sequential:
    """Fewer channels, then twice the size."""
    return nn.Sequential(ConvBn(inputs, outputs, 1), nn.Upsample(scale_factor=2))


class Head(nn.Sequential):
    """The 3x3 convolution and the biased 1x1 convolution that predicts."""

    def __init__(self, inputs: int, classes: int, hidden: int | None = None) -> None:
        hidden = 2 * inputs if hidden is None else hidden
        outputs = ANCHORS_PER_SCALE * (5 + classes)
        super().__init__(ConvBn(inputs, hidden, 3), nn.Conv2d(hidden, outputs, 1))
