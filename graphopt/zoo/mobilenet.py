"""MobileNetV2 (Sandler et al. 2018), MobileNetV3-Large (Howard et al. 2019), and the latter as
the YOLOv3 backbone of SpursLipu's yolov3-mobilenet-coco.cfg.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from graphopt.zoo.layers import ConvBn, Network, SqueezeExcite, scaled


class Bottleneck(NamedTuple):
    """One row of a MobileNet table."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    activation: str
    stride: int


V3_LARGE = (
    Bottleneck(3, 16, 16, False, "relu", 1),
    Bottleneck(3, 64, 24, False, "relu", 2),
    Bottleneck(3, 72, 24, False, "relu", 1),
    Bottleneck(5, 72, 40, True, "relu", 2),
    Bottleneck(5, 120, 40, True, "relu", 1),
    Bottleneck(5, 120, 40, True, "relu", 1),
    Bottleneck(3, 240, 80, False, "hardswish", 2),
    Bottleneck(3, 200, 80, False, "hardswish", 1),
    Bottleneck(3, 184, 80, False, "hardswish", 1),
    Bottleneck(3, 184, 80, False, "hardswish", 1),
    Bottleneck(3, 480, 112, True, "hardswish", 1),
    Bottleneck(3, 672, 112, True, "hardswish", 1),
    Bottleneck(5, 672, 160, True, "hardswish", 2),
    Bottleneck(5, 960, 160, True, "hardswish", 1),
    Bottleneck(5, 960, 160, True, "hardswish", 1),
)
V3_EPS = 1e-3

# expansion, outputs, repeats, stride of the first
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, squeeze-excite, 1x1 project; x added when the shapes agree."""

    def __init__(
        self,
        inputs: int,
        row: Bottleneck,
        squeeze_excite: nn.Module,
        *,
        expand: bool,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        wide, act = row.expanded, row.activation
        self.expand = ConvBn(inputs, wide, 1, 1, act, eps=eps) if expand else nn.Identity()
        self.depthwise = ConvBn(wide, wide, row.kernel, row.stride, act, groups=wide, eps=eps)
        self.squeeze_excite = squeeze_excite
        self.project = ConvBn(wide, row.outputs, 1, 1, "linear", eps=eps)
        self.residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.squeeze_excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Classifier(Network):
    """Features, the mean over the image, fully connected layers."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = classifier

    def raw(self, image: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.pool(self.features(image))))


class MobileNetV3YoloBackbone(nn.Module):
    """The 15 bottlenecks and a 1x1 to 1024 channels, tapped at strides 8, 16 and 32.

    The cfg differs from the classifier: ReLU6, an expansion in the first row too, and
    squeeze-excite of exactly a quarter without biases.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        rows = [
            row._replace(activation=row.activation.replace("relu", "relu6"))
            for row in _wide(V3_LARGE, width)
        ]
        inputs = scaled(16, width)
        blocks = [ConvBn(3, inputs, 3, 2, "hardswish")]
        for row in rows:
            gate = _quarter_gate(row.expanded) if row.squeeze else nn.Identity()
            blocks.append(InvertedResidual(inputs, row, gate, expand=True))
            inputs = row.outputs
        self.to_stride8 = nn.Sequential(*blocks[:7])
        self.to_stride16 = nn.Sequential(*blocks[7:13])
        last = ConvBn(inputs, yolo_taps(width)[2], 1, 1, "hardswish")
        self.to_stride32 = nn.Sequential(*blocks[13:], last)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        c3 = self.to_stride8(image)
        c4 = self.to_stride16(c3)
        return c3, c4, self.to_stride32(c4)


def yolo_taps(width: float = 1.0) -> tuple[int, ...]:
    """Channels of the maps at strides 8, 16 and 32."""
    return tuple(scaled(channels, width) for channels in (40, 112, 1024))


def mobilenetv3_large(classes: int, width: float = 1.0) -> Classifier:
    """Table 1 of Howard et al., with torchvision's rounding of the squeeze width."""
    inputs = scaled(16, width)
    blocks: list[nn.Module] = [ConvBn(3, inputs, 3, 2, "hardswish", eps=V3_EPS)]
    for row in _wide(V3_LARGE, width):
        gate = _rounded_gate(row.expanded) if row.squeeze else nn.Identity()
        expand = row.expanded != inputs
        blocks.append(InvertedResidual(inputs, row, gate, expand=expand, eps=V3_EPS))
        inputs = row.outputs
    last = scaled(960, width)
    blocks.append(ConvBn(inputs, last, 1, 1, "hardswish", eps=V3_EPS))
    tail = (nn.Linear(last, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, classes))
    return Classifier(nn.Sequential(*blocks), nn.Sequential(*tail))


def mobilenetv2(classes: int, width: float = 1.0) -> Classifier:
    """Table 2 of Sandler et al.; as there, the last 1280 channels do not get fewer."""
    inputs = scaled(32, width)
    blocks: list[nn.Module] = [ConvBn(3, inputs, 3, 2, "relu6")]
    for row in _v2_rows(width):
        expand = row.expanded != inputs
        blocks.append(InvertedResidual(inputs, row, nn.Identity(), expand=expand))
        inputs = row.outputs
    blocks.append(ConvBn(inputs, 1280, 1, 1, "relu6"))
    tail = (nn.Dropout(0.2), nn.Linear(1280, classes))
    return Classifier(nn.Sequential(*blocks), nn.Sequential(*tail))


def _wide(rows: Iterable[Bottleneck], width: float) -> list[Bottleneck]:
    return [
        row._replace(expanded=scaled(row.expanded, width), outputs=scaled(row.outputs, width))
        for row in rows
    ]


def _v2_rows(width: float) -> Iterable[Bottleneck]:
    inputs = scaled(32, width)
    for expansion, full, repeats, first_stride in V2_STAGES:
        outputs = scaled(full, width)
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            yield Bottleneck(3, expansion * inputs, outputs, False, "relu6", stride)
            inputs = outputs


def _quarter_gate(channels: int) -> SqueezeExcite:
    return SqueezeExcite(channels, channels // 4, bias=False)


def _rounded_gate(channels: int) -> SqueezeExcite:
    """A quarter rounded to a multiple of 8, but never more than a tenth below it."""
    quarter = channels // 4
    rounded = max(8, (quarter + 4) // 8 * 8)
    return SqueezeExcite(channels, rounded if rounded >= 0.9 * quarter else rounded + 8, bias=True)
