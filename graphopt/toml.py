"""Reads TOML files; Python has a parser of its own from 3.11 on."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: the file.
        what: what it is to the user ("pipeline file"), for the message.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    # Before Python 3.11, tomli is the same module.
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables: dict[str, Any] = parser.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{what} {path} is not valid TOML: {error}") from error
    return tables
