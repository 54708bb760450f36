"""Class folders: dir/cat/a.jpg shows a cat.

Classes are numbered as in dir/classes.txt, alphabetically without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from graphopt.data.images import SUFFIXES
from graphopt.errors import UsageError
from graphopt.evaluate.examples import Example, Examples, class_names, existing


class Folders(Examples):
    """Images whose class is the name of their folder."""

    task: ClassVar[str] = "classification"

    def __init__(self, where: str) -> None:
        root = existing(Path(where), "folder")
        folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        if not folders:
            raise UsageError(f"labelled data {root}: no folders in it, one per class")
        self.names = class_names(root, (p.name for p in folders))
        self._items = [
            (path, self.names.index(folder.name))
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        path, label = self._items[index]
        return Example(path, np.array([label], np.int64))
