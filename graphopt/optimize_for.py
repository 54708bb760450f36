"""Ends an optimization in a bundle for a board, measured beside the model it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.bench import Options, bench, document
from graphopt.compile import compile_file
from graphopt.frontends.onnx_file import load
from graphopt.optimize import Optimized
from graphopt.pipeline import Progress, silent
from graphopt.runtime.board import Target
from graphopt.runtime.places.place import Place

# An emulator does some 0.2 GMAC a second while it counts.
_MOST_EMULATED_MACS = 4_000_000_000


def compiled_for(
    run: Optimized,
    source: Path,
    optimized: Path,
    folder: Path,
    board: Target,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    measure: bool = True,
    replace: bool = False,
    progress: Progress = silent,
) -> Optimized:
    """Compiles what a run wrote, and adds the bundle and its figures to the run.

    Args:
        run: of `optimize_file`.
        source: the model it was given.
        optimized: what it wrote.
        folder: the bundle.
        board: what it is for.
        input_shapes: those the run was given.
        measure: run both, compiled, here or in an emulator.
        replace: whether a bundle that is there may be replaced.
        progress: told what is going on.

    Raises:
        see `compile_file` and `bench`.
    """
    sizes = _sizes(source, input_shapes or {})
    made = compile_file(optimized, folder, target=board, replace=replace, progress=progress)
    bundle = {**made.manifest, "path": str(made.path), "bytes": made.size, "error": made.error}
    notes = [*run.notes, *made.notes]
    found = None
    if reason := _unmeasured(run, board, measure):
        notes.append(reason)
    else:
        place = Place(board, "host" if board.name == "host" else "emulated")
        # Android's programs run on Android only; the same network for another ABI is counted.
        foreign = str(made.manifest["libc"]).startswith("bionic")
        second = optimized if foreign else made.path
        rows = bench([source, second], place, Options(sizes=sizes), progress=progress)
        found = document(place, rows)
    return dataclasses.replace(run, bundle=bundle, bench=found, notes=tuple(notes))


def _sizes(source: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Numbers for the named dimensions of a model whose inputs were given shapes."""
    inputs = {t.name: t.shape for t in load(source).inputs} if shapes else {}
    return {
        name: size
        for tensor, shape in shapes.items()
        for name, size in zip(inputs[tensor] or [], shape, strict=False)
        if isinstance(name, str)
    }


def _unmeasured(run: Optimized, board: Target, measure: bool) -> str:
    if not measure:
        return f"the bundle for {board.name} was not measured, as asked"
    if board.gpu is not None:
        return f"the bundle was not measured: {board.name}'s GPU is not here"
    if board.name != "host" and run.before.cost.macs > _MOST_EMULATED_MACS:
        return (
            f"the bundle was not measured: {run.before.cost.macs / 1e9:.0f} GMAC take an emulator "
            f"long; `graphopt bench --target {board.name}@emulated` does it all the same"
        )
    return ""
