"""Operators that behave differently in training, as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_NORMS: dict[int, Any] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def batch_norm(rank: int, channels: int, epsilon: float, momentum: float) -> Any:
    """torch's own BatchNorm, so that whatever knows it (SyncBatchNorm, freezing) works.

    ONNX keeps `momentum` of the old statistics, torch takes `momentum` of the new ones.
    """
    norm = _NORMS[rank](channels, eps=epsilon, momentum=1.0 - momentum)
    # It counts batches for a momentum of None only, and ONNX has no place for the number.
    norm.num_batches_tracked = None
    return norm


class Dropout(nn.Module):
    """Zeroes values at random in training and scales the rest by 1 / (1 - ratio)."""

    def __init__(self, ratio: float) -> None:
        """`ratio` is the share of values that become zero."""
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape."""
        return nn.functional.dropout(x, self.ratio, self.training)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"ratio={self.ratio}"
