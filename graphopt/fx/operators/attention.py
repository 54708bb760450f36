"""Attention and rotary position embedding as single operators (opset 23 and later)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Which of the scores Attention puts out as its fourth result.
_PLAIN, _CAPPED, _MASKED = range(3)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> Sequence[Tensor]:
    """softmax(scale Q K' + mask) V per head; with the keys and values of all, and the scores."""
    rank = query.dim()
    query, key, value = (
        _heads(query, q_num_heads),
        _heads(key, kv_num_heads),
        _heads(value, kv_num_heads),
    )
    past = 0 if past_key is None else past_key.shape[2]
    key = key if past_key is None else torch.cat([past_key, key], 2)
    value = value if past_value is None else torch.cat([past_value, value], 2)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    bias = _bias(query, key, mask, past, valid, causal=bool(is_causal))
    # A query that may look at nothing gets zeros; it looks at all meanwhile, for a finite gradient.
    blind = None if bias is None else (bias == -math.inf).all(-1, keepdim=True)
    if not softcap and outputs < 4:
        shared = query.shape[1] // key.shape[1]
        result = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(shared, 1),
            value.repeat_interleave(shared, 1),
            _open(bias, blind),
            scale=scale,
        )
        scores = result.new_zeros(0)
    else:
        result, scores = _written_out(
            query, key, value, bias, blind, scale, softcap, qk_matmul_output_mode
        )
    result = _closed(result, blind)
    if rank == 3:
        result = result.transpose(1, 2).flatten(2)
    return result, key, value, scores


def _heads(x: Tensor, heads: int | None) -> Tensor:
    """(batch, heads, length, size) from that or from (batch, length, heads size)."""
    if x.dim() == 4:
        return x
    assert heads is not None
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _bias(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    past: int,
    valid: Tensor | None,
    *,
    causal: bool,
) -> Tensor | None:
    """What is added to the scores, -inf where a query must not look; None where nothing is."""
    length, total = query.shape[2], key.shape[2]
    bias = None
    if mask is not None:
        bias = mask
        if mask.dtype == torch.bool:
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
        bias = bias.to(query.dtype)
        if bias.shape[-1] < total:
            bias = functional.pad(bias, (0, total - bias.shape[-1]), value=-math.inf)
    hidden = None
    places = torch.arange(total, device=query.device)
    if valid is not None:
        hidden = places >= valid.reshape(-1, 1, 1, 1)
    if causal:
        offset = valid.reshape(-1, 1, 1, 1) - length if valid is not None else past
        ahead = places > torch.arange(length, device=query.device).unsqueeze(1) + offset
        hidden = ahead if hidden is None else hidden | ahead
    if hidden is None:
        return bias
    start = torch.zeros((), dtype=query.dtype, device=query.device) if bias is None else bias
    return torch.where(hidden, -math.inf, start).to(query.dtype)


def _open(bias: Tensor | None, blind: Tensor | None) -> Tensor | None:
    return bias if bias is None or blind is None else bias.masked_fill(blind, 0.0)


def _closed(result: Tensor, blind: Tensor | None) -> Tensor:
    return result if blind is None else result.masked_fill(blind, 0.0)


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    blind: Tensor | None,
    scale: float,
    softcap: float,
    mode: int,
) -> tuple[Tensor, Tensor]:
    """The result and the scores that `mode` asks for."""
    shared = query.shape[1] // key.shape[1]
    root = math.sqrt(scale)
    plain = (query * root) @ (key.repeat_interleave(shared, 1) * root).mT
    capped = softcap * torch.tanh(plain / softcap) if softcap else plain
    masked = capped if bias is None else capped + bias
    seen = _open(bias, blind)
    weights = _closed(torch.softmax(capped if seen is None else capped + seen, -1), blind)
    shown = {_PLAIN: plain, _CAPPED: capped, _MASKED: masked}.get(mode, weights)
    return weights @ value.repeat_interleave(shared, 1), shown


def rotary_embedding(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Pairs (a, b) of every head turned by an angle: (a cos - b sin, b cos + a sin)."""
    split = x.transpose(1, 2) if x.dim() == 4 else x.reshape(*x.shape[:2], num_heads, -1)
    if positions is not None:
        cosines, sines = cosines[positions.long()], sines[positions.long()]
    cosines, sines = cosines.unsqueeze(2), sines.unsqueeze(2)
    size = rotary_embedding_dim or split.shape[-1]
    turned, rest = split[..., :size], split[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, -1)
    new = (a * cosines - b * sines, b * cosines + a * sines)
    both = torch.stack(new, -1).flatten(-2) if interleaved else torch.cat(new, -1)
    result = torch.cat([both, rest], -1)
    return result.transpose(1, 2) if x.dim() == 4 else result.reshape(x.shape)


ROWS: dict[str, Any] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
