"""An .npz file with images and classes.

    npz:file.npz            the arrays x and y
    npz:file.npz:test       the arrays x_test and y_test

Whole numbers of 8 bits with the channels last are pictures and go through the preprocessing; other
arrays are inputs already.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example, Examples, existing


class Arrays(Examples):
    """Rows of x, each with the class in y."""

    task: ClassVar[str] = "classification"

    def __init__(self, where: str) -> None:
        head, _, split = where.rpartition(":")
        is_split = head.lower().endswith(".npz")
        path = existing(Path(head if is_split else where), "file")
        names = [f"{n}_{split}" if is_split else n for n in "xy"]
        try:
            with np.load(path, allow_pickle=False) as held:
                have = list(held)
                arrays = [held[n] for n in names if n in held]
        except Exception as error:  # numpy passes on what zipfile, zlib and struct raise
            raise UsageError(f"labelled data {path} cannot be read: {error}") from error
        if len(arrays) < 2:
            raise UsageError(
                f"labelled data {path} has no arrays {' and '.join(names)}; it has "
                f"{', '.join(have)} (npz:{path}:test takes x_test and y_test)"
            )
        self._x, self._y = arrays[0], arrays[1].reshape(-1)
        if len(self._x) != len(self._y) or self._y.dtype.kind not in "iu":
            raise UsageError(
                f"labelled data {path}: {len(self._x)} images and {len(self._y)} labels of type "
                f"{self._y.dtype}; as many whole numbers as images are needed"
            )

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> Example:
        return Example(self._x[index], self._y[index : index + 1].astype(np.int64))
