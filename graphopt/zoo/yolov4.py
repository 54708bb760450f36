"""YOLOv4 as in yolov4.cfg: CSPDarknet-53 with Mish, SPP and a PAN neck with LeakyReLU."""

from __future__ import annotations

import torch
from torch import Tensor

from graphopt.zoo.darknet import TAPS, CspDarknet53
from graphopt.zoo.layers import ConvBn, Network
from graphopt.zoo.yolov3 import five_convs, head, spp_block, upsampler


class YoloV4(Network):
    """Top-down from stride 32 to 8, then bottom-up again; a head at each step up."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        c3, c4, c5 = TAPS
        self.backbone = CspDarknet53()
        self.top5 = spp_block(c5, 512)
        self.up5 = upsampler(512, 256)
        self.lateral4 = ConvBn(c4, 256, 1)
        self.top4 = five_convs(512, 256)
        self.up4 = upsampler(256, 128)
        self.lateral3 = ConvBn(c3, 128, 1)
        self.top3 = five_convs(256, 128)
        self.down3 = ConvBn(128, 256, 3, 2)
        self.bottom4 = five_convs(512, 256)
        self.down4 = ConvBn(256, 512, 3, 2)
        self.bottom5 = five_convs(1024, 512)
        self.head3 = head(128, classes)
        self.head4 = head(256, classes)
        self.head5 = head(512, classes)

    def raw(self, image: Tensor) -> tuple[Tensor, ...]:
        c3, c4, c5 = self.backbone(image)
        n5 = self.top5(c5)
        n4 = self.top4(torch.cat((self.lateral4(c4), self.up5(n5)), dim=1))
        p3 = self.top3(torch.cat((self.lateral3(c3), self.up4(n4)), dim=1))
        p4 = self.bottom4(torch.cat((self.down3(p3), n4), dim=1))
        p5 = self.bottom5(torch.cat((self.down4(p4), n5), dim=1))
        return self.head3(p3), self.head4(p4), self.head5(p5)
