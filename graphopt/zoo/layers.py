"""The few blocks that several networks of the zoo are built from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, to the next multiple of 8 and at least 8; as they are for width 1."""
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


class Network(nn.Module):
    """A network whose raw outputs can be decoded in the graph by setting `decode`."""

    decode: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.decode = None

    def raw(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs that the published network is trained on."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        raw = self.raw(image)
        return raw if self.decode is None else self.decode(raw)


class ConvBn(nn.Module):
    """act(bn(conv(x))) with the padding that keeps the size, stride apart."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "leaky",
        *,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ConvBnResidual(nn.Module):
    """x + conv3x3(conv1x1(x)), the residual of Darknet-53."""

    def __init__(self, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.reduce = ConvBn(channels, hidden, 1, activation=activation)
        self.expand = ConvBn(hidden, channels, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.reduce(x))


class SpatialPyramidPool(nn.Module):
    """The 5, 9 and 13 wide max-pools of x beside x, in the order of the darknet cfg."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (13, 9, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(pool(x) for pool in self.pools), x], dim=1)


class SqueezeExcite(nn.Module):
    """x scaled per channel by hard-sigmoid(fc(relu(fc(mean(x)))))."""

    def __init__(self, channels: int, squeezed: int, *, bias: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(squeezed, channels, 1, bias=bias)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.relu(self.squeeze(self.pool(x)))))
