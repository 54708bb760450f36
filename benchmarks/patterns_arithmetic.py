"""Patterns of what stands between layers: learned constants, broadcasting, indexing, outputs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.patterns import Net, Pattern, cbr, conv, parameter


def _nchw_flatten() -> nn.Module:
    return nn.Sequential(cbr(3, 8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def _nhwc_flatten() -> nn.Module:
    return Net(
        lambda s, x: s.fc(s.pool(s.a(x)).permute(0, 2, 3, 1).flatten(1)),
        a=cbr(3, 8), pool=nn.AvgPool2d(2), fc=nn.Linear(128, 10),
    )  # fmt: skip


def _min_max_where() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b, c = s.a(x), s.b(x), s.c(x)
        y = torch.where(a > b, torch.maximum(a, c), torch.minimum(b, c))
        return s.head(y + torch.pow(torch.sigmoid(a) + 0.5, torch.tanh(b)))

    return Net(forward, a=conv(3, 8), b=conv(3, 8), c=conv(3, 8), head=conv(8, 4))


def _broadcast_both() -> nn.Module:
    """(N, C, H, 1) + (N, C, 1, W), and one channel against many."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = s.a(x).mean(3, keepdim=True) + s.b(x).mean(2, keepdim=True)
        return s.head(s.one(x) - y)

    return Net(forward, a=cbr(3, 8), b=cbr(3, 8), one=conv(3, 1), head=conv(8, 4))


def _glu() -> nn.Module:
    return Net(lambda s, x: s.head(functional.glu(s.a(x), 1)), a=conv(3, 16), head=conv(8, 4))


def _swiglu() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b = s.a(x).chunk(2, 1)
        return s.head(functional.silu(a) * b)

    return Net(forward, a=conv(3, 16), head=conv(8, 4))


def _maxout() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        return s.head(x.view(x.shape[0], 8, 2, 8, 8).amax(2))

    return Net(forward, a=conv(3, 16), head=conv(8, 4))


def _gather_buffer() -> nn.Module:
    order = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    return Net(
        lambda s, x: s.head(s.a(x)[:, s.order] + s.a(x)),
        a=conv(3, 8), order=order, head=conv(8, 4),
    )  # fmt: skip


def _gather_plain() -> nn.Module:
    order = torch.tensor([7, 0, 3, 3, 5, 1, 6, 2])
    return Net(lambda s, x: s.head(s.a(x)[:, s.order]), a=conv(3, 8), order=order, head=conv(8, 4))


def _tile_expand() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = s.a(x)
        mean = y.mean((2, 3), keepdim=True).expand_as(y)
        return s.head(torch.cat([y.repeat(1, 2, 1, 1), mean], 1))

    return Net(forward, a=cbr(3, 8), head=conv(24, 4))


def _einsum() -> nn.Module:
    return Net(
        lambda s, x: s.head(torch.einsum("nchw,cd->ndhw", s.a(x), s.mix)),
        a=cbr(3, 8), mix=parameter(8, 12), head=conv(12, 4),
    )  # fmt: skip


def _learned_constants() -> nn.Module:
    return Net(
        lambda s, x: s.head((s.a(x) + s.map) * s.scale + s.shift),
        a=cbr(3, 8), map=parameter(1, 8, 8, 8), scale=parameter(8, 1, 1), shift=parameter(1),
        head=conv(8, 4),
    )  # fmt: skip


def _layer_scale() -> nn.Module:
    """ConvNeXt's block: depthwise, LayerNorm left out, NHWC Linears, a learned scale, a residual."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        y = s.norm(s.depthwise(x)).permute(0, 2, 3, 1)
        y = s.scale * s.down(functional.gelu(s.up(y)))
        return s.head(x + y.permute(0, 3, 1, 2))

    return Net(
        forward,
        stem=conv(3, 8), depthwise=conv(8, 8, 5, groups=8), norm=nn.BatchNorm2d(8),
        up=nn.Linear(8, 16), down=nn.Linear(16, 8), scale=parameter(8), head=conv(8, 4),
    )  # fmt: skip


def _computed_weight() -> nn.Module:
    """A convolution with a weight another layer computes."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = s.a(x)
        weight = s.make(y.mean((0, 2, 3))).view(6, 8, 1, 1)
        return s.head(functional.conv2d(y, weight))

    return Net(forward, a=cbr(3, 8), make=nn.Linear(8, 48), head=conv(6, 4))


def _standardized_weight() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        w = s.weight
        w = w / (w.pow(2).sum((1, 2, 3), keepdim=True).sqrt() + 1e-3)
        return s.head(torch.relu(functional.conv2d(s.a(x), w, padding=1)))

    return Net(forward, a=cbr(3, 8), weight=parameter(8, 8, 3, 3), head=conv(8, 4))


def _stacked_heads() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = s.a(x)
        return s.left(x), s.right(x), s.right(x).softmax(1)

    return Net(forward, a=cbr(3, 8), left=conv(8, 4), right=nn.Sequential(cbr(8, 8), conv(8, 4)))


def _output_is_read() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = s.a(x)
        return x, s.head(x)

    return Net(forward, a=cbr(3, 8), head=conv(8, 4))


PATTERNS = [
    Pattern("layer scale, NHWC (ConvNeXt)", 4, _layer_scale),
    Pattern("learned constants", 1, _learned_constants),
    Pattern("computed weight", 2, _computed_weight),
    Pattern("normalized weight", 2, _standardized_weight),
    Pattern("several outputs", 2, _stacked_heads),
    Pattern("output that is read further", 0, _output_is_read),
    Pattern("flatten to Linear, NCHW", 1, _nchw_flatten),
    Pattern("flatten to Linear, NHWC", 1, _nhwc_flatten),
    Pattern("Where, Min, Max, Pow", 3, _min_max_where),
    Pattern("broadcasting both ways", 2, _broadcast_both),
    Pattern("GLU", 1, _glu),
    Pattern("SwiGLU", 1, _swiglu),
    Pattern("maxout", 1, _maxout),
    Pattern("gather with repeats", 1, _gather_plain),
    Pattern("gather added to its source", 1, _gather_buffer),
    Pattern("tile and expand", 1, _tile_expand),
    Pattern("einsum", 2, _einsum),
]
