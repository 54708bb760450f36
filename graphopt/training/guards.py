"""What holds around a run: how it is stopped, which kernels it takes, what accelerate remembers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) calls `stop`, the second acts as it always does."""
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        stop()
        signal.signal(number, before[number])

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, ask)
    except ValueError:  # only the main thread may; elsewhere nobody presses keys
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deterministic() -> Iterator[None]:
    """cuDNN takes the same kernels every time."""
    flags = torch.backends.cudnn
    before = flags.deterministic, flags.benchmark
    flags.deterministic, flags.benchmark = True, False
    try:
        yield
    finally:
        flags.deterministic, flags.benchmark = before


@contextmanager
def maybe_no_sync(accelerator: Any, module: nn.Module, *, last: bool) -> Iterator[None]:
    """Gradients of several processes are summed after the last part of a step only."""
    if last:
        yield
        return
    with accelerator.no_sync(module):
        yield


def forget_accelerator() -> None:
    """accelerate keeps the precision of the first run of a process; every run has its own."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
