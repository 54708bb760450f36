"""ResNet-50 for ImageNet (He et al. 2016; stride in the 3x3, as torchvision and mmdetection)."""

from __future__ import annotations

from torch import Tensor, nn

from graphopt.zoo.layers import ConvBn, Network, scaled

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


class ResNet50Features(nn.Module):
    """The stem and four stages; gives the maps at strides 4, 8, 16 and 32."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(64, width)
        self.stem = nn.Sequential(ConvBn(3, inputs, 7, 2, "relu"), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        for index, (full, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
            channels = scaled(full, width)
            first = BottleneckBlock(inputs, channels, stride=1 if index == 0 else 2)
            inputs = EXPANSION * channels
            rest = (BottleneckBlock(inputs, channels, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class BottleneckBlock(nn.Module):
    """relu(shortcut + 1x1(3x3(1x1(x)))), with a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.reduce = ConvBn(inputs, width, 1, 1, "relu")
        self.spatial = ConvBn(width, width, 3, stride, "relu")
        self.expand = ConvBn(width, outputs, 1, 1, "linear")
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvBn(inputs, outputs, 1, stride, "linear")
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


class ResNet50(Network):
    """The classifier on the last map."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.features = ResNet50Features(width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(EXPANSION * scaled(WIDTHS[-1], width), classes)

    def raw(self, image: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.features(image)[-1])))
