"""What a run writes down while it goes: a CSV with a row per epoch, and TensorBoard's events."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, float]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All epochs of a run, written anew and renamed, so that a resumed run leaves no second copy."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    beside = path.with_suffix(".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)


class Events:
    """TensorBoard's events of a run; nothing without a folder."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """Events after `step` of an earlier attempt are hidden."""
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=step)

    def numbers(self, values: Row, step: int, group: str) -> None:
        """Numbers as curves."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def histogram(self, name: str, values: Any, step: int) -> None:
        """The distribution of values."""
        if self._writer is not None:
            self._writer.add_histogram(name, values, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
