"""What a stage's network takes on boards: compiled, and counted in an emulator."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.bench import Options, bench
from graphopt.compile import compile_file
from graphopt.pipeline import Progress
from graphopt.runtime.places.figures import Counts, Times
from graphopt.runtime.places.place import Place
from graphopt.runtime.targets import target


def on_boards(
    model: Path, boards: Sequence[str], folder: Path, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Bundles beside the model, and for every board instructions and estimated cycles, or seconds.

    Args:
        model: an ONNX file.
        boards: names of targets; "host" is timed here, beside ONNX Runtime.
        folder: where the bundles are put.
        progress: told what is going on.

    Returns:
        {board: {"bytes", "error", "cycles", "instructions"}}, and for "host" {"seconds",
        "onnxruntime"} instead of the last two.

    Raises:
        see `compile_file` and `bench`.
    """
    return {name: _on(model, name, folder, progress) for name in boards}


def _on(model: Path, name: str, folder: Path, progress: Progress) -> dict[str, Any]:
    board = target(name)
    bundle = folder / name
    shutil.rmtree(bundle, ignore_errors=True)
    progress(f"compiling for {name}")
    made = compile_file(model, bundle, target=board, progress=progress)
    place = Place(board, "host" if name == "host" else "emulated")
    rows = bench([model], place, Options(threads=1), progress=progress)
    found: dict[str, Any] = {"bytes": made.size, "error": made.error}
    for row in rows:
        if isinstance(row.figures, Counts):
            found |= {"cycles": row.figures.cycles, "instructions": row.figures.instructions}
        elif isinstance(row.figures, Times):
            found["seconds" if row.engine == "graphopt" else "onnxruntime"] = row.figures.median
    return found
