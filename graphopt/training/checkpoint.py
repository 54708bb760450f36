"""A run on disk: one file, written beside and renamed, read without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import LoadError, SaveError

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes the state of a run; the file before it stays until this one is complete.

    Args:
        folder: made if it is not there.
        state: tensors, numbers, text, lists and dictionaries of these.

    Raises:
        SaveError: it cannot be written.
    """
    path = folder / NAME
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        raise SaveError(f"checkpoint {path} cannot be written: {error}") from error


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The state saved in a folder, or None when there is none.

    Raises:
        LoadError: the file is damaged or no checkpoint.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch passes on what zipfile and its own reader raise
        raise LoadError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise LoadError(f"{path} is no checkpoint of a training run")
    return state


def fingerprint(*parts: Any) -> str:
    """What tells two runs apart: settings, and the names and shapes of parameters."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
