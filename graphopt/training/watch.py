"""Who looks on while a network is trained: nobody, a terminal, or whoever subclasses `Watch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.training.hooks import Moment


class Watch:
    """Is told what happens, and does nothing about it."""

    def start(self, at: Moment) -> None:
        """The run starts, or goes on from step `at.step`."""

    def step(self, at: Moment, terms: Mapping[str, float], status: str) -> None:
        """A step is done; `status` is what the hooks have to say."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is done."""

    def note(self, text: str) -> None:
        """Something happened that a user should know of."""

    def stop(self) -> None:
        """The run is over."""


class Terminal(Watch):
    """A line that moves with every step, and one that stays for every epoch, on stderr."""

    def __init__(self, spinner: Any = None) -> None:
        """`spinner` (a rich Status) gives way while a network is trained."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._spinner = spinner
        self._console = Console(stderr=True) if spinner is None else spinner.console
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None

    def start(self, at: Moment) -> None:
        """See Watch."""
        self._task = self._progress.add_task(
            "training", total=at.steps, completed=at.step, epoch=f"{at.epoch:.1f}", numbers=""
        )
        if self._spinner is not None:
            self._spinner.stop()
        if self._console.is_terminal:
            self._progress.start()

    def step(self, at: Moment, terms: Mapping[str, float], status: str) -> None:
        """See Watch."""
        numbers = " ".join(f"{name} {value:.3g}" for name, value in terms.items())
        self._progress.update(
            self._task,
            completed=at.step,
            epoch=f"{at.epoch:.1f}",
            numbers=f"{numbers}  lr {at.learning_rate:.2g}  {status}",
        )

    def epoch(self, row: Mapping[str, float]) -> None:
        """See Watch."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        self._console.print(f"epoch {row['epoch']:.3g}  {numbers}", highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """See Watch."""
        self._console.print(text, highlight=False)

    def stop(self) -> None:
        """See Watch."""
        self._progress.stop()
        if self._spinner is not None:
            self._spinner.start()
