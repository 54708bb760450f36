"""Labelled sets made here, and a small detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.evaluate import Example, Examples
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.ir.graph import Graph

Array = np.ndarray[Any, Any]

COLOURS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))


class Listed(Examples):
    """Examples out of a list."""

    task = "detection"

    def __init__(self, examples: Sequence[Example], task: str = "detection") -> None:
        self.examples = list(examples)
        self.task = task  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def painted(count: int, size: int = 64, seed: int = 0) -> Listed:
    """Pictures with one to three rectangles that do not touch, the class being the colour."""
    rng = np.random.default_rng(seed)
    return Listed([_painted(size, rng) for _ in range(count)])


def _painted(size: int, rng: np.random.Generator) -> Example:
    pixels = rng.integers(90, 130, (size, size, 3)).astype(np.uint8)
    half = size // 2
    cells = rng.permutation(4)[: rng.integers(1, 4)]
    boxes, kinds = [], []
    for cell in cells:
        w, h = rng.integers(10, half - 2, 2)
        x = cell % 2 * half + rng.integers(0, half - w)
        y = cell // 2 * half + rng.integers(0, half - h)
        kinds.append(int(rng.integers(len(COLOURS))))
        boxes.append((x, y, x + w, y + h))
        pixels[y : y + h, x : x + w] = COLOURS[kinds[-1]]
    return Example(pixels, np.array(kinds), np.array(boxes, np.float64))


class Small(nn.Module):
    """Two maps of strides 8 and 16 for three classes: some thousand parameters."""

    def __init__(self, anchors: int = 3, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 8, 2), _conv(8, 12, 2), _conv(12, 16, 2))
        self.deep = _conv(16, 24, 2)
        self.fine = nn.Sequential(_conv(16, 16), nn.Conv2d(16, anchors * (5 + classes), 1))
        self.coarse = nn.Sequential(_conv(24, 24), nn.Conv2d(24, anchors * (5 + classes), 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x)
        return self.fine(fine), self.coarse(self.deep(fine))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


def small_graph(size: int = 64, seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    model = to_onnx(
        Small().eval(),
        torch.zeros(1, 3, size, size),
        input_names=["images"],
        output_names=["fine", "coarse"],
        dynamic_batch=True,
        exporter="dynamo",
    )
    return normalize(model)
