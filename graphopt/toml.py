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
    try:
        tables = _loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{what} {path} is not valid TOML: {error}") from error
    return tables


def read_value(text: str) -> Any:
    """A number, a truth value, a text in quotes or a list as TOML writes them; else the text itself."""
    try:
        found = _loads(f"value = {text}")
    except ValueError:
        return text
    value = found["value"]
    return value if len(found) == 1 and isinstance(value, bool | int | float | str | list) else text


def _loads(text: str) -> dict[str, Any]:
    # Before Python 3.11, tomli is the same module.
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, Any] = parser.loads(text)
    return found
