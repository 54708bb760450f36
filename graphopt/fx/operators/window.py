"""Where the windows of a convolution or pooling stand: padding, written out or worked out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

_SAME = ("SAME_UPPER", "SAME_LOWER")


def padding_of(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    *,
    may_cut: bool = False,
) -> list[tuple[int, int]]:
    """(before, after) for every spatial axis of length `size`.

    With `may_cut` SAME takes away where strides leave values out, as poolings of ONNX Runtime do and its
    convolutions do not.
    """
    rank = len(kernel)
    if auto_pad in _SAME:
        windows = [(k - 1) * spread + 1 for k, spread in zip(kernel, dilations, strict=True)]
        missing = [
            (-(-n // s) - 1) * s + w - n for n, w, s in zip(size, windows, strides, strict=True)
        ]
        return [_halves(m if may_cut else max(m, 0), auto_pad) for m in missing]
    if pads is None or auto_pad == "VALID":
        return [(0, 0)] * rank
    return [(pads[i], pads[i + rank]) for i in range(rank)]


def _halves(missing: int, auto_pad: str) -> tuple[int, int]:
    # Towards zero, as C divides.
    before = int((missing + (auto_pad == "SAME_LOWER")) / 2)
    return before, missing - before


def fitted(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    ceil_mode: bool,
) -> list[tuple[int, int]]:
    """`padding` with as much behind (less than nothing, too) as the windows reach.

    With `ceil_mode` the last window may stand over the end, but has to start before the padding there.
    """
    pairs = []
    for n, k, step, spread, (before, after) in zip(
        size, kernel, strides, dilations, padding, strict=True
    ):
        window = (k - 1) * spread + 1
        free = n + before + after - window
        count = (-(-free // step) if ceil_mode else free // step) + 1
        if ceil_mode and (count - 1) * step >= n + before:
            count -= 1
        pairs.append((before, (count - 1) * step + window - n - before))
    return pairs


def pad(x: Tensor, padding: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """`x` with its last axes padded."""
    if not any(before or after for before, after in padding):
        return x
    flat = [n for pair in reversed(padding) for n in pair]
    return functional.pad(x, flat, value=value)


def symmetric(padding: Sequence[tuple[int, int]]) -> list[int] | None:
    """One number per axis where both sides agree, else None."""
    if all(before == after for before, after in padding):
        return [before for before, _ in padding]
    return None


def ones(values: Sequence[int] | None, rank: int) -> list[int]:
    """Strides or dilations, which are 1 when left out."""
    return list(values) if values is not None else [1] * rank
