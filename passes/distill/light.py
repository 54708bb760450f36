"""The parts of a lightweight backbone, written into a graph with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Tensor, add_constant, add_node

# Channels of MobileNetV3-Large at each stride (Howard et al., ICCV 2019, table 1).
_WIDTHS = {2: 16, 4: 24, 8: 40, 16: 112, 32: 160}
_EPSILON, _MOMENTUM = 1e-5, 0.9


def stage_widths(stride: int, width: float) -> int:
    """Channels at a stride for a width multiplier, a multiple of 8."""
    base = _WIDTHS.get(stride, _WIDTHS[32])
    return max(8, round(base * width / 8) * 8)


class Light:
    """Adds blocks to a graph; every block is followed by its BatchNormalization."""

    def __init__(self, graph: Graph, rng: np.random.Generator, expand: float, squeeze: int) -> None:
        """`expand` is the width inside a block, `squeeze` the reduction of squeeze-and-excite (0: none)."""
        self.graph, self.rng = graph, rng
        self.expand, self.squeeze = expand, squeeze
        self._count = 0

    def stem(self, x: Tensor, channels: int) -> Tensor:
        """3x3 convolution with stride 2, and h-swish."""
        return self._active(self._conv(x, channels, 3, stride=2), "HardSwish")

    def inverted(self, x: Tensor, channels: int, *, stride: int, deep: bool) -> Tensor:
        """Expand 1x1, depthwise, squeeze-and-excite, project 1x1; added to x where shapes allow."""
        inside = round(int(x.shape[1]) * self.expand / 8) * 8
        kind = "HardSwish" if deep else "Relu"
        wide = self._active(self._conv(x, inside, 1), kind)
        kernel = 5 if deep else 3
        each = self._active(self._conv(wide, inside, kernel, stride=stride, group=inside), kind)
        if self.squeeze and deep:
            each = self._gated(each)
        narrow = self._conv(each, channels, 1)
        if stride == 1 and int(x.shape[1]) == channels:
            narrow = add_node(self.graph, "Add", [x, narrow], like=narrow)
        return narrow

    def pointwise(self, x: Tensor, channels: int) -> Tensor:
        """1x1 convolution to the width a feature has to have, with h-swish."""
        return self._active(self._conv(x, channels, 1), "HardSwish")

    def _gated(self, x: Tensor) -> Tensor:
        channels = int(x.shape[1])
        small = max(8, round(channels / self.squeeze / 8) * 8)
        pooled = add_node(
            self.graph, "GlobalAveragePool", [x], like=x, shape=[x.shape[0], channels, 1, 1]
        )
        hidden = self._active(self._conv(pooled, small, 1, norm=False), "Relu")
        scale = self._conv(hidden, channels, 1, norm=False)
        # max(0, min(1, x / 6 + 1 / 2)), MobileNetV3's hard sigmoid
        gate = self._active(scale, "HardSigmoid", alpha=1 / 6, beta=0.5)
        return add_node(self.graph, "Mul", [x, gate], like=x)

    def _active(self, x: Tensor, op: str, **attrs: float) -> Tensor:
        return add_node(self.graph, op, [x], like=x, attrs=attrs)

    def _conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        group: int = 1,
        norm: bool = True,
    ) -> Tensor:
        self._count += 1
        stem = f"light.{self._count}"
        n, depth, height, width = x.shape
        shape = (channels, int(depth) // group, kernel, kernel)
        fan = channels // group * kernel * kernel
        weight = self.rng.standard_normal(shape) * (2 / fan) ** 0.5
        out = [n, channels, -(-int(height) // stride), -(-int(width) // stride)]
        attrs: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [kernel // 2] * 4,
            "group": group,
        }
        inputs = [x, self._constant(f"{stem}.weight", weight, x)]
        if not norm:
            inputs.append(self._constant(f"{stem}.bias", np.zeros(channels), x))
        made = add_node(self.graph, "Conv", inputs, like=x, attrs=attrs, shape=out)
        return self._normal(made, f"{stem}.bn") if norm else made

    def _normal(self, x: Tensor, stem: str) -> Tensor:
        channels = int(x.shape[1])
        values = {
            "weight": np.ones(channels),
            "bias": np.zeros(channels),
            "running_mean": np.zeros(channels),
            "running_var": np.ones(channels),
        }
        constants = [self._constant(f"{stem}.{k}", v, x) for k, v in values.items()]
        attrs = {"epsilon": _EPSILON, "momentum": _MOMENTUM}
        return add_node(self.graph, "BatchNormalization", [x, *constants], like=x, attrs=attrs)

    def _constant(self, name: str, values: Any, like: Tensor) -> Tensor:
        return add_constant(self.graph, name, values.astype(like.dtype))
