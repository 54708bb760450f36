"""YOLOv4 as in yolov4.cfg: CSPDarknet-53 with Mish, SPP and a PAN neck with LeakyReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from graphopt.zoo.darknet import CspDarknet53, taps
from graphopt.zoo.layers import ConvBn, Network, scaled
from graphopt.zoo.yolov3 import Head, five_convs, spp_block, upsampler


class YoloV4(Network):
    """Top-down from stride 32 to 8, then bottom-up again; a head at each step up."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        c3, c4, c5 = taps(width)
        w3, w4, w5 = (scaled(channels, width) for channels in (128, 256, 512))
        self.backbone = CspDarknet53(width)
        self.top5 = spp_block(c5, w5)
        self.up5 = upsampler(w5, w4)
        self.lateral4 = ConvBn(c4, w4, 1)
        self.top4 = five_convs(2 * w4, w4)
        self.up4 = upsampler(w4, w3)
        self.lateral3 = ConvBn(c3, w3, 1)
        self.top3 = five_convs(2 * w3, w3)
        self.down3 = ConvBn(w3, w4, 3, 2)
        self.bottom4 = five_convs(2 * w4, w4)
        self.down4 = ConvBn(w4, w5, 3, 2)
        self.bottom5 = five_convs(2 * w5, w5)
        self.head3 = Head(w3, classes)
        self.head4 = Head(w4, classes)
        self.head5 = Head(w5, classes)

    def raw(self, image: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(image)
        n5 = self.top5(c5)
        n4 = self.top4(torch.cat((self.lateral4(c4), self.up5(n5)), dim=1))
        p3 = self.top3(torch.cat((self.lateral3(c3), self.up4(n4)), dim=1))
        p4 = self.bottom4(torch.cat((self.down3(p3), n4), dim=1))
        p5 = self.bottom5(torch.cat((self.down4(p4), n5), dim=1))
        return self.head3(p3), self.head4(p4), self.head5(p5)
