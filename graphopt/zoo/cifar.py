"""The CIFAR networks: ResNet-20/32/56 (He et al. 2016, section 4.2, option A shortcuts) and
wide ResNets WRN-depth-width (Zagoruyko and Komodakis 2016, table 1, B(3,3) blocks).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from graphopt.zoo.layers import ConvBn, Network, scaled

WIDTHS = (16, 32, 64)


class CifarResNet(Network):
    """Depth 6n + 2: a 3x3 stem and three stages of n basic blocks."""

    def __init__(self, depth: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(WIDTHS[0], width)
        self.stem = ConvBn(3, inputs, 3, 1, "relu")
        self.stages = nn.Sequential()
        for full in WIDTHS:
            outputs = scaled(full, width)
            first = BasicBlock(inputs, outputs, stride=1 if full == WIDTHS[0] else 2)
            rest = (BasicBlock(outputs, outputs, stride=1) for _ in range((depth - 2) // 6 - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def raw(self, image: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.stages(self.stem(image)))))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + 3x3(3x3(x)))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = outputs - inputs, stride
        self.first = ConvBn(inputs, outputs, 3, stride, "relu")
        self.second = ConvBn(outputs, outputs, 3, 1, "linear")
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.first(x)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every other pixel, and zeros for half of the new channels on either side."""
        if self.stride == 1:
            return x
        beside = self.added // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, beside, beside))


class WideResNet(Network):
    """Depth 6n + 4: a 3x3 stem and three groups of n pre-activation blocks, `widen` times wide."""

    def __init__(self, depth: int, widen: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(WIDTHS[0], width)
        self.stem = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        for index, full in enumerate(WIDTHS):
            outputs = scaled(full * widen, width)
            first = PreActivationBlock(inputs, outputs, stride=1 if index == 0 else 2)
            rest = (PreActivationBlock(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1))
            self.groups.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)

    def raw(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn(self.groups(self.stem(image))))
        return self.fc(self.flatten(self.pool(x)))


class PreActivationBlock(nn.Module):
    """shortcut + conv(relu(bn(conv(relu(bn(x)))))); a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = None
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))
