"""Patterns of convolutional classifiers: branches, joins, groups, gates, normalizations."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.patterns import Net, Pattern, cbr, conv


def _residual(width: int = 8) -> nn.Module:
    return Net(
        lambda s, x: torch.relu(x + s.b(torch.relu(s.a(x)))),
        a=cbr(width, 12),
        b=nn.Sequential(conv(12, width), nn.BatchNorm2d(width)),
    )


def _chain() -> nn.Module:
    return nn.Sequential(cbr(3, 8), cbr(8, 12), conv(12, 4))


def _residual_chain() -> nn.Module:
    return nn.Sequential(cbr(3, 8), _residual(), _residual(), _residual(), conv(8, 4))


def _downsampling_residual() -> nn.Module:
    return Net(
        lambda s, x: s.head(torch.relu(s.skip(s.stem(x)) + s.body(s.stem(x)))),
        stem=cbr(3, 8),
        skip=conv(8, 12, 1, stride=2),
        body=nn.Sequential(cbr(8, 10, stride=2), conv(10, 12)),
        head=conv(12, 4),
    )


def _option_a() -> nn.Module:
    """ResNet for CIFAR: the shortcut is subsampled and padded with channels of zeros."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        return s.head(torch.relu(functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + s.body(x)))

    body = nn.Sequential(cbr(8, 10, stride=2), conv(10, 12))
    return Net(forward, stem=cbr(3, 8), body=body, head=conv(12, 4))


def _preactivation() -> nn.Module:
    return Net(
        lambda s, x: s.head(s.stem(x) + s.b(torch.relu(s.norm(s.stem(x))))),
        stem=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 8),
        head=conv(8, 4),
    )


def _concat() -> nn.Module:
    return Net(
        lambda s, x: s.head(torch.cat([s.a(x), s.b(x)], 1)),
        a=cbr(3, 8),
        b=cbr(3, 12),
        head=conv(20, 4),
    )


def _nested_concat() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b, c = s.a(x), s.b(x), s.c(x)
        inner = torch.cat([a, b], 1)
        return s.head(torch.cat([c, inner, b, s.d(inner)], 1))

    return Net(forward, a=cbr(3, 4), b=cbr(3, 6), c=cbr(3, 8), d=cbr(10, 8), head=conv(32, 4))


def _concat_with_input() -> nn.Module:
    return Net(lambda s, x: s.head(torch.cat([x, s.a(x)], 1)), a=cbr(3, 8), head=conv(11, 4))


def _dense_block() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for layer in s.layers:
            x = torch.cat([x, layer(x)], 1)
        return s.head(torch.relu(s.norm(x)))

    def layer(width: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), cbr(width, 12, 1), conv(12, 4))

    layers = nn.ModuleList([layer(8), layer(12), layer(16)])
    net = Net(forward, layers=layers, norm=nn.BatchNorm2d(20), head=conv(20, 4))
    return nn.Sequential(cbr(3, 8), net)


def _concat_of_residuals() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        y = s.first(x)
        z = s.second(y)
        return s.head(torch.cat([x, y, z], 1))

    return Net(forward, stem=cbr(3, 8), first=_residual(), second=_residual(), head=conv(24, 4))


def _sum_of_concats() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return s.head(torch.cat([s.a(x), s.b(x)], 1) + torch.cat([s.c(x), s.d(x)], 1))

    # The seams of both sides stand at different places.
    return Net(forward, a=cbr(3, 8), b=cbr(3, 4), c=cbr(3, 6), d=cbr(3, 6), head=conv(12, 4))


def _shuffle() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return s.head(s.b(x))

    return Net(forward, a=cbr(3, 12), b=cbr(12, 12, groups=2), head=conv(12, 4))


def _shuffle_unit() -> nn.Module:
    """ShuffleNetV2: one half passes, the other is computed, and both are shuffled."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        left, right = s.stem(x).chunk(2, 1)
        x = torch.cat([left, s.branch(right)], 1)
        n, c, h, w = x.shape
        return s.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w))

    branch = nn.Sequential(cbr(6, 6, 1), cbr(6, 6, groups=6), cbr(6, 6, 1))
    return Net(forward, stem=cbr(3, 12), branch=branch, head=conv(12, 4))


def _grouped(outputs: int, groups: int) -> nn.Module:
    return nn.Sequential(cbr(3, 16), cbr(16, outputs, groups=groups), conv(outputs, 4))


def _squeeze_excite() -> nn.Module:
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), conv(8, 4, 1), nn.ReLU(), conv(4, 8, 1), nn.Hardsigmoid()
    )
    return Net(
        lambda s, x: s.head(s.a(x) * s.gate(s.a(x))), a=cbr(3, 8), gate=gate, head=conv(8, 4)
    )


def _squeeze_excite_linear() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        weights = torch.sigmoid(s.up(torch.relu(s.down(x.mean((2, 3))))))
        return s.head(x * weights.view(x.shape[0], -1, 1, 1))

    return Net(forward, a=cbr(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), head=conv(8, 4))


def _spatial_gate() -> nn.Module:
    return Net(
        lambda s, x: s.head(s.a(x) * torch.sigmoid(s.gate(s.a(x)))),
        a=cbr(3, 8), gate=conv(8, 1), head=conv(8, 4),
    )  # fmt: skip


def _cbam() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        x = x * torch.sigmoid(
            s.mlp(functional.adaptive_avg_pool2d(x, 1))
            + s.mlp(functional.adaptive_max_pool2d(x, 1))
        )
        seen = torch.cat([s.squeeze(x), s.other(x)], 1)
        return s.head(x * torch.sigmoid(s.gate(seen)))

    mlp = nn.Sequential(conv(8, 4, 1), nn.ReLU(), conv(4, 8, 1))
    return Net(
        forward,
        a=cbr(3, 8), mlp=mlp, squeeze=conv(8, 1, 1), other=conv(8, 1, 1), gate=conv(2, 1, 7),
        head=conv(8, 4),
    )  # fmt: skip


def _cbam_statistics() -> nn.Module:
    """The original: mean and maximum over the channels, which no channel may leave."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return s.head(x * torch.sigmoid(s.gate(seen)))

    return Net(forward, a=cbr(3, 8), gate=conv(2, 1, 7), head=conv(8, 4))


def _normalized(norm: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 12), norm, nn.ReLU(), conv(12, 4))


def _layer_norm_channels() -> nn.Module:
    return Net(
        lambda s, x: s.head(s.b(s.norm(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
        a=conv(3, 8), norm=nn.LayerNorm(8), b=cbr(8, 8), head=conv(8, 4),
    )  # fmt: skip


def _used_twice() -> nn.Module:
    return Net(lambda s, x: s.head(s.b(s.b(s.a(x)))), a=cbr(3, 8), b=cbr(8, 8), head=conv(8, 4))


def _sizes_disagree() -> nn.Module:
    """One weight between the stem's 8 channels and behind a concat of 4 and 4."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return s.head(s.shared(s.a(x)) + s.shared(torch.cat([s.b(x), s.c(x)], 1)))

    return Net(forward, a=cbr(3, 8), b=cbr(3, 4), c=cbr(3, 4), shared=conv(8, 8), head=conv(8, 4))


def _shared_with_input() -> nn.Module:
    """The same weight reads the image, whose channels stay, and a layer's output."""
    return Net(lambda s, x: s.shared(s.a(x)) + s.shared(x), a=conv(3, 3), shared=conv(3, 3))


def _transposed(groups: int) -> nn.Module:
    up = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=groups)
    return nn.Sequential(cbr(3, 12), up, nn.BatchNorm2d(12), nn.ReLU(), conv(12, 4))


def _three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 4, 1),
    )


def _one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 3, dilation=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8),
        nn.Conv1d(8, 4, 1),
    )  # fmt: skip


PATTERNS = [
    Pattern("chain", 2, _chain),
    Pattern("residual chain", 7, _residual_chain),
    Pattern("residual with projection", 4, _downsampling_residual),
    Pattern("constant pad shortcut (option A)", 3, _option_a),
    Pattern("pre-activation residual", 2, _preactivation),
    Pattern("concat", 2, _concat),
    Pattern("nested concat", 4, _nested_concat),
    Pattern("concat with the image", 1, _concat_with_input),
    Pattern("dense block", 7, _dense_block),
    Pattern("concat of residuals", 5, _concat_of_residuals),
    Pattern("sum of concats", 4, _sum_of_concats),
    Pattern("channel shuffle", 2, _shuffle),
    Pattern("shuffle unit", 4, _shuffle_unit),
    Pattern("depthwise", 2, lambda: _grouped(16, 16)),
    Pattern("depthwise with multiplier", 2, lambda: _grouped(32, 16)),
    Pattern("few wide groups", 2, lambda: _grouped(16, 2)),
    Pattern("many narrow groups", 2, lambda: _grouped(16, 8)),
    Pattern("groups that shrink", 2, lambda: _grouped(8, 4)),
    Pattern("squeeze-excite", 3, _squeeze_excite),
    Pattern("squeeze-excite with Linear", 3, _squeeze_excite_linear),
    Pattern("spatial gate of one channel", 1, _spatial_gate),
    Pattern("CBAM with convolutions", 5, _cbam),
    Pattern("CBAM's statistics over channels", 0, _cbam_statistics),
    Pattern("PReLU", 1, lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 4))),
    Pattern("LayerNorm over channels", 1, _layer_norm_channels),
    Pattern("GroupNorm, whole groups", 1, lambda: _normalized(nn.GroupNorm(4, 12))),
    Pattern("GroupNorm of one group", 0, lambda: _normalized(nn.GroupNorm(1, 12))),
    Pattern("InstanceNorm", 1, lambda: _normalized(nn.InstanceNorm2d(12, affine=True))),
    Pattern("local response normalization", 0, lambda: _normalized(nn.LocalResponseNorm(3))),
    Pattern("weight used twice", 3, _used_twice),
    Pattern("weight shared across a concat", 5, _sizes_disagree),
    Pattern("weight shared with the image", 0, _shared_with_input),
    Pattern(
        "global pooling to Linear",
        1,
        lambda: nn.Sequential(cbr(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ),
    Pattern("transposed convolution", 2, lambda: _transposed(1)),
    Pattern("transposed convolution, depthwise", 2, lambda: _transposed(12)),
    Pattern("transposed convolution, groups", 2, lambda: _transposed(3)),
    Pattern("3-D convolutions", 1, _three_dimensional, (1, 2, 4, 6, 6)),
    Pattern("1-D convolutions", 2, _one_dimensional, (2, 4, 20)),
]
