"""How the pressure on channels changes over a run.

    constant                                   s
    global-decay{after=0.5 factor=0.01}        s, then 0.01 s for every channel
    local-decay{after=0.5 top=0.15}            s, then 0.01 s for the largest 15 %
    dynamic{after=0.4 top=0.35}                the same with other numbers
    linear{last=0.1}                           s (1 - 0.9 done)
    cosine{last=0.2 mask-every=2}              s (0.8 (1 + cos(pi done)) / 2 + 0.2), and a soft mask

A schedule is a pure function of the share of the run that is done and of how large channels are: it
remembers nothing, so a run that is resumed goes on exactly. A user's own is registered with `register`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.named import Classes, read_named
from graphopt.pass_base import options_for


@dataclass(frozen=True)
class Schedule(abc.ABC):
    """Base of every schedule. Options are the dataclass fields; all are shares from 0 to 1.

    Attributes:
        name: what users call it.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not 0 <= value <= 1:
                raise UsageError(f"{self.name}: {field.name}={value!r} is not from 0 to 1")

    @abc.abstractmethod
    def factors(self, done: float, sizes: Tensor) -> Tensor:
        """What s is multiplied with for every channel.

        Args:
            done: the share of the run that is done, in steps, 0 to 1.
            sizes: |gamma| of every channel, or what stands for it; shape (channels,).

        Returns:
            Shape (channels,), on the device of `sizes`.
        """

    @property
    def until(self) -> float:
        """The share of the run in which channels have to become small; see `propose`."""
        return 0.5

    def weak(self, epoch: int, sizes: Tensor, means: Tensor) -> Tensor | None:  # noqa: ARG002
        """Which channels are shrunk at the end of an epoch; None for none.

        Args:
            epoch: epochs done.
            sizes: as for `factors`.
            means: for every channel, the mean size in its layer.
        """
        return None

    @property
    def shrink(self) -> float:
        """What the normalizations of weak channels are multiplied with."""
        return 1.0

    def __str__(self) -> str:
        """As `parse_schedule` reads it."""
        values = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        inner = " ".join(f"{n.replace('_', '-')}={v:g}" for n, v, default in values if v != default)
        return f"{self.name}{{{inner}}}" if inner else self.name


@dataclass(frozen=True)
class Constant(Schedule):
    """s_k = s.

    Liu et al., Network Slimming, ICCV 2017.
    """

    name = "constant"

    def factors(self, done: float, sizes: Tensor) -> Tensor:  # noqa: ARG002
        """Ones."""
        return torch.ones_like(sizes)


@dataclass(frozen=True)
class GlobalDecay(Schedule):
    """s_k = s while done <= after, then factor s.

    System 1 (hand detection), its second strategy: accuracy comes back in the second half, and so
    do channels that had become small.
    """

    name = "global-decay"
    after: float = 0.5
    factor: float = 0.01

    @property
    def until(self) -> float:
        """Up to the decay."""
        return self.after or 1.0

    def factors(self, done: float, sizes: Tensor) -> Tensor:
        """One, then `factor`."""
        return torch.full_like(sizes, self.factor if done > self.after else 1.0)


@dataclass(frozen=True)
class LocalDecay(Schedule):
    """s_k = s while done <= after; then factor s for the largest `top` of all channels, s for others.

        released = { k : |gamma_k| >= sorted(|gamma|)[int((1 - top) N)] }

    over all N channels of the network, ranked anew in every step, so that a channel may cross over.
    System 1 (hand detection), its third strategy. 1 - top should be the share that will be pruned:
    the largest share that a run with constant pressure could lose without losing accuracy.
    """

    name = "local-decay"
    after: float = 0.5
    top: float = 0.15
    factor: float = 0.01

    @property
    def until(self) -> float:
        """Up to the decay."""
        return self.after or 1.0

    def factors(self, done: float, sizes: Tensor) -> Tensor:
        """One; then `factor` for the released."""
        ones = torch.ones_like(sizes)
        # The small number keeps 0.85 * 20 at 17 where it comes out as 16.999...
        rank = int((1 - self.top) * len(sizes) + 1e-9)
        if done <= self.after or rank >= len(sizes):
            return ones
        released = sizes >= sizes.sort().values[rank]
        return torch.where(released, self.factor * ones, ones)


@dataclass(frozen=True)
class Dynamic(LocalDecay):
    """As `local-decay`, from 0.4 of the run on and for the largest 35 %.

    System 2 (group pruning), dynamic sparse training; published code has the largest 25 to 35 %.
    """

    name = "dynamic"
    after: float = 0.4
    top: float = 0.35


@dataclass(frozen=True)
class Linear(Schedule):
    """s_k = s (1 - (1 - last) done).

    The yolov5prune family (arXiv 2509.12918), with last = 0.1.
    """

    name = "linear"
    last: float = 0.1

    def factors(self, done: float, sizes: Tensor) -> Tensor:
        """One to `last` in a line."""
        return torch.full_like(sizes, 1 - (1 - self.last) * done)


@dataclass(frozen=True)
class Cosine(Schedule):
    """s_k = s ((1 - last) (1 + cos(pi done)) / 2 + last), and a soft mask every few epochs.

    Every `mask_every` epochs (0: never) channels with |gamma_k| <= below * mean |gamma| of their
    layer are shrunk: gamma, beta, mean and variance are multiplied by `shrink`. They may grow again.
    PYL, a pruner of YOLOv5, with these numbers. There is no mask at the end of the run.
    """

    name = "cosine"
    last: float = 0.2
    mask_every: int = 2
    below: float = 0.2
    mask: float = 0.1

    def factors(self, done: float, sizes: Tensor) -> Tensor:
        """One to `last` in half a cosine."""
        share = (1 + math.cos(math.pi * done)) / 2
        return torch.full_like(sizes, (1 - self.last) * share + self.last)

    def weak(self, epoch: int, sizes: Tensor, means: Tensor) -> Tensor | None:
        """Those far below the mean of their layer."""
        if self.mask_every <= 0 or epoch % self.mask_every:
            return None
        return sizes <= self.below * means

    @property
    def shrink(self) -> float:
        """The factor of the soft mask."""
        return self.mask


_OURS = (Constant, GlobalDecay, LocalDecay, Dynamic, Linear, Cosine)
SCHEDULES: Classes[Schedule] = Classes("schedule", {each.name: each for each in _OURS})


def register(schedule: type[Schedule]) -> type[Schedule]:
    """Makes a schedule known by its `name`; also usable as a decorator.

    Raises:
        UsageError: the name is taken.
    """
    return SCHEDULES.register(schedule)


def parse_schedule(text: str) -> Schedule:
    """The schedule written as `text` (see the module's text).

    Raises:
        UsageError: it cannot be read, names something that is not there, or an option has a value
            that cannot be meant.
    """
    name, options = read_named(text, "schedule")
    kind = SCHEDULES.find(name)
    return kind(**options_for(kind, options, "schedule"))
