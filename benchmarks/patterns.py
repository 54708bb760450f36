"""Small networks, one for each way in which channels of a network hang together.

Each is a `torch.nn.Module` where torch can say it, so that tools for modules can be given the same,
and ONNX text where it cannot (If, Loop, older conventions of other exporters). Weights are seeded,
and normalizations have statistics that matter. `layers` tells how many weighted layers have output
channels that can be removed; none means that refusing is right.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

IMAGE = (2, 3, 8, 8)


@dataclass(frozen=True)
class Pattern:
    """One coupling pattern: a module and its input shapes, or ONNX text.

    Attributes:
        name: what it is called in tables.
        layers: how many layers can lose output channels; 0 where nothing may be removed.
        build: makes the module.
        shape: the shape of its input.
        text: "(inputs) => (outputs) <weights> { nodes }" in ONNX's textual syntax, instead.
        opset: of the text.
        integers: the input holds indices below this number.
    """

    name: str
    layers: int
    build: Callable[[], nn.Module] | None = None
    shape: tuple[int, ...] = IMAGE
    text: str = ""
    opset: int = 20
    integers: int = 0

    @property
    def expect(self) -> Literal["pruned", "refused"]:
        """Whether anything can be removed."""
        return "pruned" if self.layers else "refused"

    def module(self) -> nn.Module:
        """The module in eval mode; the same weights every time."""
        assert self.build is not None, f"{self.name} is ONNX text"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            module = self.build()
            with torch.no_grad():
                _draw_statistics(module)
        return module.eval()

    def example(self) -> torch.Tensor:
        """An example of its input."""
        generator = torch.Generator().manual_seed(0)
        if self.integers:
            return torch.randint(self.integers, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)


def _draw_statistics(module: nn.Module) -> None:
    """What starts as zero or one would hide a channel that went to the wrong place."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or name.split(".")[-1].startswith("bias"):
            tensor.normal_(0, 0.3)
        elif tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)


class Net(nn.Module):
    """A module from its parts and a function `forward(self, x)`."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._run = forward
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        """What the function given says."""
        return self._run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the image's size (at stride 1)."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def cbr(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    made = conv(inputs, outputs, kernel, bias=False, **options)
    return nn.Sequential(made, nn.BatchNorm2d(outputs), nn.ReLU())


def parameter(*shape: int) -> nn.Parameter:
    """A learned constant."""
    return nn.Parameter(torch.randn(shape) * 0.5)


def patterns(only: str | None = None) -> Iterator[Pattern]:
    """Every pattern whose name contains `only`."""
    from benchmarks import (
        patterns_arithmetic,
        patterns_attention,
        patterns_convolution,
        patterns_detection,
        patterns_onnx,
    )

    for table in (
        patterns_convolution,
        patterns_arithmetic,
        patterns_detection,
        patterns_attention,
        patterns_onnx,
    ):
        for pattern in table.PATTERNS:
            if only is None or only in pattern.name:
                yield pattern
