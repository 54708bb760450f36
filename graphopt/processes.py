"""Several processes that train one model together, as `accelerate launch` or `torchrun` starts them.

All of them do the same; what the first one prints and writes is what there is afterwards.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def count() -> int:
    """How many processes train together; 1 where none of the launchers started this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return count() == 1 or os.environ.get("RANK", "0") == "0"


def place_for(target: Path) -> Path:
    """Where this process writes what is meant for `target`: all but the first where nothing stays."""
    if is_first():
        return target
    folder = tempfile.mkdtemp(prefix="graphopt.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / target.name
