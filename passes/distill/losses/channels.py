"""Which channel of the teacher belongs to which of the student.

A pruned student kept some of the teacher's channels, so the pairing is known exactly and nothing
has to be learned for it (an adapter would have to be):

    channels = KeptChannels.from_plan(plan, "backbone.conv3.weight")

A student of another design has no such list; H-AT then takes the teacher's channels that vary
most from image to image:

    channels = selected_by_std(batches_of_features, count=32)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphopt.channels.plan import Plan
from graphopt.errors import UsageError
from graphopt.passes.distill.losses.embedding import Norm, channel_embedding


@dataclass(frozen=True)
class KeptChannels:
    """The teacher's channel that the student's channel j stands for, at place j.

    Attributes:
        indices: channels of the teacher, each at most once; a tensor or array is read as well.

    Raises:
        UsageError: there are none, one is negative, or one comes twice.
    """

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        found = tuple(int(i) for i in self.indices)
        if not found or min(found) < 0 or len(set(found)) < len(found):
            raise UsageError(
                f"kept channels {found!r}: give the teacher's channel numbers, each once"
            )
        object.__setattr__(self, "indices", found)

    @classmethod
    def from_plan(cls, plan: Plan, parameter: str, axis: int = 0) -> KeptChannels | None:
        """What a pruning plan kept of a parameter's axis; None where it removed nothing.

        Args:
            plan: made for the teacher; the student is what it leaves.
            parameter: the weight (or BatchNorm scale) that makes the tensor.
            axis: 0 for what a convolution puts out.
        """
        kept = plan.keep.get(parameter, {}).get(axis)
        return None if kept is None else cls(tuple(kept))

    def of(self, tensor: Tensor) -> Tensor:
        """The kept channels of a tensor, along axis 1.

        Raises:
            UsageError: the tensor has no such channels.
        """
        self.shape(tuple(tensor.shape))
        return tensor.index_select(1, _index(self.indices, tensor.device))

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what is kept of a tensor of this shape.

        Raises:
            UsageError: the tensor has no such channels.
        """
        if len(shape) < 2 or max(self.indices) >= shape[1]:
            raise UsageError(
                f"kept channel {max(self.indices)} is not in the teacher's tensor "
                f"{tuple(shape)}: the list was made for another tensor"
            )
        return (shape[0], len(self.indices), *shape[2:])


# Losses ask in every step; on a GPU each new tensor would be a copy that waits for the device.
@functools.lru_cache(maxsize=256)
def _index(indices: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(indices, device=device)


class ChannelStd:
    """How much each channel of the teacher varies from image to image, over many batches.

        sigma_c = std over images of e[:, c],   e = `channel_embedding` of the features.

    The published code takes it of the first batch; that is a few images' chance for all of the
    training, so `select` asks for 1000. Sums are kept in double precision and merged around their
    means (Chan et al. 1979).

    Args:
        norm: the teacher's BatchNorm that reads the features, if there is one.
    """

    def __init__(self, norm: Norm | None = None) -> None:
        self.images = 0
        self._norm = norm
        self._mean = self._square = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Takes in features (images, channels, positions...).

        Raises:
            UsageError: another number of channels than before, or no feature map.
        """
        if features.ndim < 3:
            raise UsageError(f"features {tuple(features.shape)} need (images, channels, positions)")
        batch = channel_embedding(features.detach(), self._norm).detach().double()
        if self.images and batch.shape[1] != len(self._mean):
            raise UsageError(
                f"features {tuple(features.shape)} have {batch.shape[1]} channels, those before "
                f"had {len(self._mean)}: use one ChannelStd per tensor"
            )
        if not len(batch):
            return
        mean = batch.mean(0)
        square = (batch - mean).square().sum(0)
        images = self.images + len(batch)
        apart = mean - self._mean
        self._square = self._square + square + apart.square() * (self.images * len(batch) / images)
        self._mean = self._mean + apart * (len(batch) / images)
        self.images = images

    def std(self) -> Tensor:
        """sigma_c, (channels,), in double precision."""
        if not self.images:
            raise UsageError("no features were added: there is no standard deviation of nothing")
        return (self._square / self.images).sqrt()

    def select(self, count: int, *, least: int = 1000) -> KeptChannels:
        """The `count` channels that vary most, ascending; the first of equals.

        Raises:
            UsageError: fewer than `least` images were added, or there are not `count` channels.
        """
        if self.images < least:
            raise UsageError(
                f"channels are selected by {self.images} images, too few to tell which vary: add "
                f"{least}, or say least={self.images}"
            )
        spread = self.std()
        if not 1 <= count <= len(spread):
            raise UsageError(f"cannot select {count} of {len(spread)} channels")
        order = spread.argsort(descending=True, stable=True)
        return KeptChannels(tuple(sorted(order[:count].tolist())))


def selected_by_std(
    features: Iterable[Tensor], count: int, *, norm: Norm | None = None, least: int = 1000
) -> KeptChannels:
    """The `count` channels of the teacher that vary most over batches of its features.

    H-AT, PRCV 2020, doi 10.1007/978-3-030-60636-7_21. See `ChannelStd`.

    Raises:
        UsageError: fewer than `least` images, or fewer than `count` channels.
    """
    spread = ChannelStd(norm)
    for batch in features:
        spread.add(batch)
    return spread.select(count, least=least)
