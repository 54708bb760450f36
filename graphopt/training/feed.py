"""Samples as batches: in an order that depends on the seed alone, from any step on, read by workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from graphopt.errors import GraphoptError, UsageError


class SampleSource(Protocol):
    """Samples by number: arrays by input name, without the batch axis."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class Order:
    """Batches of sample numbers, epoch after epoch, from a given batch on.

    Every epoch is a permutation drawn from (seed, epoch); what does not fill a batch is left out and
    comes in another epoch. With several processes each takes its share of every permutation.
    """

    def __init__(
        self, count: int, batch: int, seed: int, *, process: int = 0, processes: int = 1
    ) -> None:
        """`count` samples, `batch` at a time for each of `processes`.

        Raises:
            UsageError: there are fewer samples than one batch needs.
        """
        if count < batch * processes:
            raise UsageError(
                f"{count} samples do not fill a batch of {batch * processes}: take a smaller one"
            )
        self.count, self.batch, self.seed = count, batch, seed
        self.process, self.processes = process, processes
        self.per_epoch = count // (batch * processes)
        self.start, self.stop = 0, self.per_epoch

    def between(self, start: int, stop: int) -> None:
        """From batch `start` to batch `stop`, counted over all epochs."""
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        epoch, drawn = -1, torch.empty(0, dtype=torch.int64)
        for number in range(self.start, self.stop):
            if number // self.per_epoch != epoch:
                epoch = number // self.per_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                drawn = torch.randperm(self.count, generator=generator)
            first = (number % self.per_epoch * self.processes + self.process) * self.batch
            yield drawn[first : first + self.batch].tolist()


class _Readable(Dataset[Any]):
    """Samples in the order of the model's inputs; what cannot be read is told, not raised."""

    def __init__(self, samples: SampleSource, names: Sequence[str], *, skip: bool) -> None:
        self.samples, self.names, self.skip = samples, list(names), skip

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[Any], list[str]]:
        skipped: list[str] = []
        for k in range(len(self.samples)):
            try:
                found = self.samples[(index + k) % len(self.samples)]
            except GraphoptError as error:
                if not self.skip:
                    raise
                skipped.append(str(error))
                continue
            return [np.asarray(found[n]) for n in self.names], skipped
        raise UsageError("no sample can be read")


Batch = tuple[tuple[torch.Tensor, ...], list[str]]


def _collated(items: list[tuple[list[Any], list[str]]]) -> Batch:
    columns = zip(*(arrays for arrays, _ in items), strict=True)
    tensors = tuple(torch.from_numpy(np.stack(column)) for column in columns)
    return tensors, [text for _, skipped in items for text in skipped]


def loader(
    samples: SampleSource, names: Sequence[str], order: Order, *, workers: int, skip: bool
) -> DataLoader[Any]:
    """Batches of the inputs `names`, with the messages of samples that were skipped.

    A sample that cannot be read is replaced by the next one when `skip`, else its error is raised.
    """
    return DataLoader(
        _Readable(samples, names, skip=skip),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collated,
        persistent_workers=False,
        # forking after threads have run is not safe everywhere, but what is read needs no threads
        multiprocessing_context="fork" if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
