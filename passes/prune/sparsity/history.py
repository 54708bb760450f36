"""How the sizes of channels were distributed before a run and after every epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SMALL = 1e-2  # channels below are as good as gone
_BINS = 48
_MARGIN = 1.25  # of the axis beyond what nearly all channels have in the beginning
_TOPS = (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0)  # quarters of these read well
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 12


@dataclass
class History:
    """Counts in bins that stay the same, so that epochs can be compared.

    Attributes:
        edges: of the bins, one more than there are; the last bin also holds what is larger.
        at: epochs done at every row.
        epochs: the counts.
        small: the share of channels below 0.01.
        mean: the mean size.
    """

    edges: list[float]
    at: list[float] = field(default_factory=list)
    epochs: list[list[int]] = field(default_factory=list)
    small: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, sizes: Tensor) -> History:
        """With bins that suit these sizes; they are its first row."""
        usual = float(sizes.quantile(0.99)) if len(sizes) else 0.0
        top = _round_up(_MARGIN * max(usual, 10 * SMALL))
        history = cls([top * k / _BINS for k in range(_BINS + 1)])
        history.add(0.0, sizes)
        return history

    def add(self, epoch: float, sizes: Tensor) -> None:
        """Another row."""
        sizes = sizes.detach().float().cpu()
        self.at.append(epoch)
        self.epochs.append(self.counts(sizes))
        self.small.append(float((sizes < SMALL).float().mean()))
        self.mean.append(float(sizes.mean()))

    def counts(self, sizes: Tensor) -> list[int]:
        """How many sizes are in every bin."""
        inner = torch.tensor(self.edges[1:-1], device=sizes.device)
        bins = torch.bucketize(sizes.detach().float(), inner, right=True)
        counts: list[int] = torch.bincount(bins, minlength=_BINS).tolist()
        return counts

    def bars(self, sizes: Tensor) -> str:
        """The distribution as a line of block characters, zero on the left."""
        counts = self.counts(sizes)
        each = _BINS // _WIDTH
        sums = [sum(counts[k : k + each]) for k in range(0, _BINS, each)]
        most = max(*sums, 1)
        # Square roots: a few channels beside a thousand are to be seen.
        return "".join(_bar((n / most) ** 0.5) for n in sums)

    def state(self) -> dict[str, Any]:
        """As numbers and lists."""
        return {k: list(v) for k, v in vars(self).items()}


def _round_up(value: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(top * power for top in _TOPS if top * power >= value * (1 - 1e-9))


def _bar(share: float) -> str:
    if not share:
        return " "
    return _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
