"""Patterns of detectors and image-to-image networks: necks, routes, heads with decoding, blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.patterns import Net, Pattern, cbr, conv, parameter


def _csp() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        y = s.right(x)
        y = y + s.b(s.a(y))
        return s.head(s.join(torch.cat([s.left(x), y], 1)))

    return Net(
        forward,
        stem=cbr(3, 12), left=cbr(12, 6, 1), right=cbr(12, 6, 1), a=cbr(6, 8, 1), b=cbr(8, 6),
        join=cbr(12, 10, 1), head=conv(10, 4),
    )  # fmt: skip


def _pan() -> nn.Module:
    """Two scales: top down by upsampling, bottom up by strides, concats in both directions."""

    def forward(s: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = s.fine(x)
        coarse = s.lateral(s.coarse(fine))
        up = s.top(torch.cat([functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        down = s.bottom(torch.cat([s.stride(up), coarse], 1))
        return s.head_fine(up), s.head_coarse(down)

    return Net(
        forward,
        fine=cbr(3, 8), coarse=cbr(8, 12, stride=2), lateral=cbr(12, 8, 1), top=cbr(16, 10),
        stride=cbr(10, 6, stride=2), bottom=cbr(14, 12), head_fine=conv(10, 6), head_coarse=conv(12, 6),
    )  # fmt: skip


def _fpn() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = s.fine(x)
        coarse = s.coarse(fine)
        top = s.lateral_coarse(coarse)
        sum_ = s.lateral_fine(fine) + functional.interpolate(
            top, size=fine.shape[-2:], mode="nearest"
        )
        return s.out(s.smooth(sum_)), s.out(s.smooth(top))

    return Net(
        forward,
        fine=cbr(3, 8), coarse=cbr(8, 12, stride=2), lateral_coarse=conv(12, 8, 1),
        lateral_fine=conv(8, 8, 1), smooth=conv(8, 8), out=conv(8, 4, 1),
    )  # fmt: skip


def _c2f(shortcut: bool, uneven: bool = False) -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        parts = list(x.split((5, 7), 1)) if uneven else list(x.chunk(2, 1))
        for block in s.blocks:
            y = block(parts[-1])
            parts.append(parts[-1] + y if shortcut else y)
        return s.head(s.join(torch.cat(parts, 1)))

    width = 7 if uneven else 6
    blocks = [nn.Sequential(cbr(width, 8), cbr(8, width)) for _ in range(2)]
    return Net(
        forward,
        stem=cbr(3, 12), blocks=nn.ModuleList(blocks), join=cbr(12 + 2 * width, 8, 1), head=conv(8, 4),
    )  # fmt: skip


def _half_slices() -> nn.Module:
    """YOLOv4-tiny: the second half of a layer goes through two more, then all meet again."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        y = s.b(x[:, 6:])
        z = s.c(y)
        w = s.d(torch.cat([z, y], 1))
        return s.head(torch.cat([x, w], 1))

    return Net(
        forward, stem=cbr(3, 12), b=cbr(6, 6), c=cbr(6, 6), d=cbr(12, 12, 1), head=conv(24, 4)
    )


def _strided_slices() -> nn.Module:
    """Every second channel forwards, the others backwards."""
    return Net(
        lambda s, x: s.head(torch.cat([s.a(x)[:, ::2], s.b(x)[:, 1::2].flip(1)], 1)),
        a=cbr(3, 12), b=cbr(3, 12), head=conv(12, 4),
    )  # fmt: skip


def _spp() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        return s.head(
            torch.cat([x, *(functional.max_pool2d(x, k, 1, k // 2) for k in (3, 5, 7))], 1)
        )

    return Net(forward, a=cbr(3, 8), head=conv(32, 4))


def _sppf() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        parts = [s.a(x)]
        for _ in range(3):
            parts.append(s.pool(parts[-1]))
        return s.head(torch.cat(parts, 1))

    return Net(forward, a=cbr(3, 8), pool=nn.MaxPool2d(5, 1, 2), head=conv(32, 4))


def _upsample(mode: str) -> nn.Module:
    up = nn.Upsample(scale_factor=2, mode=mode)
    return nn.Sequential(cbr(3, 8), up, cbr(8, 8), conv(8, 4))


def _yolo_head() -> nn.Module:
    """Three anchors of 7 numbers each, decoded: nothing before the last convolution is held."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.head(s.b(s.a(x)))
        n, _, h, w = x.shape
        x = x.view(n, 3, 7, h, w).permute(0, 1, 3, 4, 2)
        xy = (x[..., :2].sigmoid() * 2 - 0.5 + s.grid) * 8
        wh = (x[..., 2:4].sigmoid() * 2) ** 2 * s.anchors
        return torch.cat([xy, wh, x[..., 4:].sigmoid()], -1).view(n, -1, 7)

    ys, xs = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return Net(
        forward,
        a=cbr(3, 8), b=cbr(8, 12), head=conv(12, 21, 1), grid=torch.stack([xs, ys], -1)[None, None],
        anchors=torch.rand(1, 3, 1, 1, 2) + 1,
    )  # fmt: skip


def _distribution_head() -> nn.Module:
    """YOLOv8: box sides as expectations over bins, through a softmax and a fixed convolution."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        n = x.shape[0]
        boxes, scores = torch.cat([s.box(x), s.score(x)], 1).view(n, 21, -1).split((16, 5), 1)
        boxes = s.bins(boxes.view(n, 4, 4, -1).transpose(2, 1).softmax(1)).view(n, 4, -1)
        return torch.cat([boxes, scores.sigmoid()], 1)

    return Net(
        forward,
        a=cbr(3, 8), box=nn.Sequential(cbr(8, 8), conv(8, 16, 1)),
        score=nn.Sequential(cbr(8, 8), conv(8, 5, 1)), bins=nn.Conv2d(4, 1, 1, bias=False),
    )  # fmt: skip


def _shared_heads() -> nn.Module:
    """RetinaNet: one tower of weights over every level; levels joined as rows of boxes."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        fine = s.fine(x)
        found = []
        for level in (fine, s.coarse(fine)):
            y = s.out(s.tower(level))
            found.append(
                y.view(y.shape[0], 2, 5, -1).permute(0, 3, 1, 2).reshape(y.shape[0], -1, 5)
            )
        return torch.cat(found, 1)

    return Net(
        forward,
        fine=cbr(3, 8), coarse=cbr(8, 8, stride=2), tower=nn.Sequential(cbr(8, 8), cbr(8, 8)),
        out=conv(8, 10),
    )  # fmt: skip


def _shared_heads_own_norms() -> nn.Module:
    """Convolutions shared between levels, batch norms not (RetinaNet of TensorFlow, RTMDet)."""

    def forward(s: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = s.fine(x)
        levels = zip((fine, s.coarse(fine)), s.norms, strict=True)
        return tuple(s.out(torch.relu(norm(s.tower(level)))) for level, norm in levels)

    norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
    return Net(
        forward,
        fine=cbr(3, 8),
        coarse=cbr(8, 8, stride=2),
        tower=conv(8, 8),
        norms=norms,
        out=conv(8, 4),
    )


def _decoupled_head() -> nn.Module:
    """YOLOX: classes, boxes and objectness from two towers, concatenated and flattened."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        classes, boxes = s.classes(x), s.boxes(x)
        y = torch.cat([s.reg(boxes), s.obj(boxes).sigmoid(), s.cls(classes).sigmoid()], 1)
        return y.flatten(2).permute(0, 2, 1)

    return Net(
        forward,
        stem=cbr(3, 8), classes=cbr(8, 8), boxes=cbr(8, 8), reg=conv(8, 4, 1), obj=conv(8, 1, 1),
        cls=conv(8, 5, 1),
    )  # fmt: skip


def _focus() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return s.head(s.b(torch.cat(parts, 1)))

    return Net(forward, a=cbr(3, 8), b=cbr(32, 8), head=conv(8, 4))


def _reorg() -> nn.Module:
    """YOLOv2's passthrough, by view and permute."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return s.head(x.reshape(n, 4 * c, h // 2, w // 2))

    return Net(forward, a=cbr(3, 8), head=conv(32, 4))


def _patch_merging() -> nn.Module:
    """Swin: four neighbours side by side in NHWC, then a Linear."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x).permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return s.fc(torch.cat(parts, -1))

    return Net(forward, a=cbr(3, 8), fc=nn.Linear(32, 6))


def _unet() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        one = s.down1(x)
        two = s.down2(functional.max_pool2d(one, 2))
        bottom = s.bottom(functional.max_pool2d(two, 2))
        y = s.join2(torch.cat([s.up2(bottom), two], 1))
        return s.head(s.join1(torch.cat([s.up1(y), one], 1)))

    return Net(
        forward,
        down1=cbr(3, 6), down2=cbr(6, 8), bottom=cbr(8, 12), up2=nn.ConvTranspose2d(12, 8, 2, 2),
        join2=cbr(16, 8), up1=nn.ConvTranspose2d(8, 6, 2, 2), join1=cbr(12, 6), head=conv(6, 2, 1),
    )  # fmt: skip


def _dynamic_crop() -> nn.Module:
    """Upsampling to the size of another map, read from its shape."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = s.a(x)
        b = s.b(a)
        return s.head(
            a + functional.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)
        )

    return Net(forward, a=cbr(3, 8), b=cbr(8, 8, stride=2), head=conv(8, 4))


def _coord_conv() -> nn.Module:
    """Two channels of coordinates beside the computed ones."""
    grid = torch.rand(1, 2, 8, 8)
    return Net(
        lambda s, x: s.head(torch.cat([s.a(x), s.grid.expand(x.shape[0], -1, -1, -1)], 1)),
        a=cbr(3, 8), grid=grid, head=conv(10, 4),
    )  # fmt: skip


def _implicit() -> nn.Module:
    """YOLOR and YOLOv7: learned vectors added before and multiplied after the last convolution."""
    return Net(
        lambda s, x: s.head(s.a(x) + s.before) * s.after,
        a=cbr(3, 8), before=parameter(1, 8, 1, 1), after=parameter(1, 6, 1, 1), head=conv(8, 6),
    )  # fmt: skip


PATTERNS = [
    Pattern("CSP", 6, _csp),
    Pattern("PAN", 6, _pan),
    Pattern("FPN", 6, _fpn),
    Pattern("C2f with shortcut", 6, lambda: _c2f(True)),
    Pattern("C2f without shortcut", 6, lambda: _c2f(False)),
    Pattern("C2f, uneven split", 6, lambda: _c2f(True, uneven=True)),
    Pattern("half slices (YOLOv4-tiny)", 4, _half_slices),
    Pattern("strided and flipped slices", 2, _strided_slices),
    Pattern("SPP", 1, _spp),
    Pattern("SPPF", 1, _sppf),
    Pattern("upsample, nearest", 2, lambda: _upsample("nearest")),
    Pattern("upsample, bilinear", 2, lambda: _upsample("bilinear")),
    Pattern("YOLO head with decoding", 2, _yolo_head),
    Pattern("distribution head (YOLOv8)", 3, _distribution_head),
    Pattern("shared heads (RetinaNet)", 6, _shared_heads),
    Pattern("shared heads, own batch norms", 4, _shared_heads_own_norms),
    Pattern("decoupled head (YOLOX)", 3, _decoupled_head),
    Pattern("focus", 2, _focus),
    Pattern("reorg by view and permute", 1, _reorg),
    Pattern("patch merging (Swin)", 1, _patch_merging),
    Pattern("pixel shuffle", 1, lambda: nn.Sequential(cbr(3, 16), nn.PixelShuffle(2), conv(4, 4))),
    Pattern(
        "pixel unshuffle", 1, lambda: nn.Sequential(cbr(3, 4), nn.PixelUnshuffle(2), conv(16, 4))
    ),
    Pattern("U-Net with transposed convolutions", 7, _unet),
    Pattern("upsampling to a size read at run time", 2, _dynamic_crop),
    Pattern("coordinates beside channels", 1, _coord_conv),
    Pattern("implicit vectors (YOLOR)", 1, _implicit),
]
