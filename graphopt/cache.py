"""Where measurements that take long are kept from run to run."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """$GRAPHOPT_CACHE/kind, else $XDG_CACHE_HOME/graphopt/kind or ~/.cache/graphopt/kind."""
    given = os.environ.get("GRAPHOPT_CACHE")
    if given:
        return Path(given) / kind
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "graphopt" / kind
