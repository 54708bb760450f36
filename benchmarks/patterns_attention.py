"""Patterns of transformers and recurrent networks: tokens, heads, embeddings, gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.patterns import Net, Pattern, cbr, conv, parameter

TOKENS = (2, 6, 12)


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    n, t, c = x.shape
    return x.reshape(n, t, heads, c // heads).transpose(1, 2)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    n, _, t, width = q.shape
    scores = (q @ k.transpose(-2, -1)) * width**-0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, -1)


def _attention() -> nn.Module:
    """Separate Linears for q, k, v; three heads of four."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (_split_heads(each(x), 3) for each in (s.q, s.k, s.v))
        return s.out(_attend(q, k, v))

    return Net(forward, **{name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")})


def _qkv_in_one() -> nn.Module:
    """timm's: one Linear, reshaped to (3, heads, width)."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = s.qkv(x).reshape(n, t, 3, 3, c // 3).permute(2, 0, 3, 1, 4).unbind(0)
        return s.out(_attend(q, k, v))

    return Net(forward, qkv=nn.Linear(12, 36), out=nn.Linear(12, 12))


def _vit() -> nn.Module:
    """Patches, a class token, positions, one block, a head: the stream is held by LayerNorm."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([s.token.expand(x.shape[0], -1, -1), x], 1) + s.positions
        q, k, v = s.qkv(s.norm1(x)).chunk(3, -1)
        x = x + s.out(_attend(*(_split_heads(each, 3) for each in (q, k, v))))
        x = x + s.down(functional.gelu(s.up(s.norm2(x))))
        return s.head(s.norm3(x)[:, 0])

    norms: dict[str, Any] = {f"norm{k}": nn.LayerNorm(12) for k in (1, 2, 3)}
    return Net(
        forward,
        patches=nn.Conv2d(3, 12, 4, 4), token=parameter(1, 1, 12), positions=parameter(1, 5, 12),
        qkv=nn.Linear(12, 36), out=nn.Linear(12, 12), up=nn.Linear(12, 24), down=nn.Linear(24, 12),
        head=nn.Linear(12, 5), **norms,
    )  # fmt: skip


def _positions_without_norm() -> nn.Module:
    """Tokens of a convolution with a class token and positions, and no LayerNorm to hold them."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([s.token.expand(x.shape[0], -1, -1), x], 1) + s.positions
        return s.head(torch.relu(s.fc(x)).mean(1))

    return Net(
        forward,
        patches=nn.Conv2d(3, 12, 4, 4), token=parameter(1, 1, 12), positions=parameter(1, 5, 12),
        fc=nn.Linear(12, 8), head=nn.Linear(8, 5),
    )  # fmt: skip


def _torch_attention() -> nn.Module:
    return Net(
        lambda s, x: s.head(s.attention(s.a(x), s.a(x), s.a(x), need_weights=False)[0]),
        a=nn.Linear(12, 12), attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 4),
    )  # fmt: skip


def _convolutional_attention() -> nn.Module:
    """YOLOv10's and GAN-like attention: q, k, v by 1x1 convolutions over flattened positions."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.stem(x)
        n, _, h, w = x.shape
        q, k, v = s.q(x).flatten(2), s.k(x).flatten(2), s.v(x).flatten(2)
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return s.head(x + (v @ weights.transpose(1, 2)).view(n, -1, h, w))

    return Net(
        forward, stem=cbr(3, 8), q=conv(8, 4, 1), k=conv(8, 4, 1), v=conv(8, 8, 1), head=conv(8, 4)
    )


def _channel_attention() -> nn.Module:
    """Attention between channels (XCiT, DANet): a softmax over the channels themselves."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = s.a(x).flatten(2)
        return (y @ y.transpose(1, 2)).softmax(-1) @ y

    return Net(forward, a=cbr(3, 8))


def _mlp_mixer() -> nn.Module:
    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x + s.down_t(functional.gelu(s.up_t(x.transpose(1, 2)))).transpose(1, 2)
        return x + s.down_c(functional.gelu(s.up_c(x)))

    return Net(
        forward,
        up_t=nn.Linear(6, 10),
        down_t=nn.Linear(10, 6),
        up_c=nn.Linear(12, 16),
        down_c=nn.Linear(16, 12),
    )


def _embedding() -> nn.Module:
    """BERT: an embedding table, positions, LayerNorm, an MLP."""

    def forward(s: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        x = s.norm(s.words(ids) + s.positions)
        return s.head(s.down(functional.gelu(s.up(x))) + x)

    return Net(
        forward,
        words=nn.Embedding(20, 12), positions=parameter(1, 6, 12), norm=nn.LayerNorm(12),
        up=nn.Linear(12, 24), down=nn.Linear(24, 12), head=nn.Linear(12, 4),
    )  # fmt: skip


def _embedding_factored() -> nn.Module:
    """ALBERT: a narrow table and a Linear behind it; the table's width is free."""
    return Net(
        lambda s, ids: s.head(torch.tanh(s.up(s.words(ids)))),
        words=nn.Embedding(20, 8), up=nn.Linear(8, 12), head=nn.Linear(12, 4),
    )  # fmt: skip


def _tied_embedding() -> nn.Module:
    """The table is also the output layer."""
    return Net(
        lambda s, ids: torch.relu(s.fc(s.words(ids))) @ s.words.weight.t(),
        words=nn.Embedding(20, 8), fc=nn.Linear(8, 8),
    )  # fmt: skip


def _recurrent(kind: type[nn.Module]) -> nn.Module:
    return Net(
        lambda s, x: s.head(s.rnn(torch.relu(s.a(x)))[0]),
        a=nn.Linear(12, 10), rnn=kind(10, 6, batch_first=True), head=nn.Linear(6, 4),
    )  # fmt: skip


def _convolutional_recurrent() -> nn.Module:
    """CRNN: columns of a feature map are the steps of an LSTM."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x)
        n, c, h, w = x.shape
        return s.head(s.rnn(x.permute(0, 3, 1, 2).reshape(n, w, c * h))[0])

    rnn = nn.LSTM(64, 6, batch_first=True, bidirectional=True)
    return Net(forward, a=cbr(3, 8), rnn=rnn, head=nn.Linear(12, 4))


def _window_partition() -> nn.Module:
    """Swin's windows: (N, H, W, C) cut into 4x4 and put together again."""

    def forward(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = s.a(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
        x = s.b(x).view(n, h // 4, w // 4, 4, 4, -1).transpose(2, 3).reshape(n, h, w, -1)
        return s.head(torch.roll(x, (-2, -2), (1, 2)))

    return Net(forward, a=cbr(3, 8), b=nn.Linear(8, 8), head=nn.Linear(8, 4))


PATTERNS = [
    Pattern("attention, q k v apart", 3, _attention, TOKENS),
    Pattern("attention, q k v in one", 1, _qkv_in_one, TOKENS),
    Pattern("ViT block", 2, _vit),
    Pattern("class token and positions", 2, _positions_without_norm),
    Pattern("nn.MultiheadAttention", 5, _torch_attention, TOKENS),
    Pattern("attention over positions", 4, _convolutional_attention),
    Pattern("attention between channels", 0, _channel_attention),
    Pattern("MLP-Mixer", 2, _mlp_mixer, TOKENS),
    Pattern("embedding and MLP (BERT)", 1, _embedding, (2, 6), integers=20),
    Pattern("factored embedding (ALBERT)", 1, _embedding_factored, (2, 6), integers=20),
    Pattern("tied embedding", 1, _tied_embedding, (2, 6), integers=20),
    Pattern("LSTM", 1, lambda: _recurrent(nn.LSTM), TOKENS),
    Pattern("GRU", 1, lambda: _recurrent(nn.GRU), TOKENS),
    Pattern("CRNN", 1, _convolutional_recurrent),
    Pattern("windows (Swin)", 1, _window_partition),
]
