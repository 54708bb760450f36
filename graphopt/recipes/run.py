"""Runs the stages of a recipe, each once: what is there already is taken as it is.

    OUT/seed0/base/model.onnx    result.json    plan.json, since.json (of what)    runs/ (checkpoints)

A stage is known by a fingerprint of its passes and of all it comes from; result.json is written last,
so that a stage without one is done again, its training going on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt import processes
from graphopt.errors import SaveError, UsageError
from graphopt.pipeline import Progress, silent
from graphopt.recipes.recipe import Recipe
from graphopt.recipes.stage import MODEL, RESULT, Ground, run_stage, stage_print


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    stages: Sequence[str] = (),
    device: str = "auto",
    watch: Callable[[], Any] = lambda: None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Runs a recipe; the results of every stage and seed, in order.

    Args:
        recipe: at one scale.
        folder: where everything is kept; a run that was stopped goes on there.
        seeds: the whole is run once for each.
        stages: only these and what they come from.
        device: "cpu", or "auto" for a GPU where there is one.
        watch: makes what is shown training runs.
        progress: told what is going on.

    Raises:
        UsageError: it was started in several processes.
        GraphoptError: see the passes.
        KeyboardInterrupt: asked to stop; the same call goes on.
    """
    if processes.count() > 1:
        raise UsageError(
            "a recipe's stages read the files of those before, so it runs in one process: start it without "
            "accelerate launch or torchrun"
        )
    found = []
    for seed in seeds:
        ground = Ground(recipe, folder / f"seed{seed}", seed, device, watch)
        for stage in recipe.needed(stages):
            place = ground.place(stage.name)
            mark = stage_print(ground, stage)
            known = read_result(place)
            if known is None or known["fingerprint"] != mark:
                progress(f"seed {seed}: {stage.name}")
                known = {"fingerprint": mark, **run_stage(ground, stage, progress)}
                write_result(place, known)
            found.append(known)
    return found


def read_result(place: Path) -> dict[str, Any] | None:
    """What a stage left; None where it is not done.

    Raises:
        UsageError: the file is damaged.
    """
    path = place / RESULT
    if not path.exists() or not (place / MODEL).exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{path} cannot be read ({error}): delete the folder of the stage"
        ) from error
    return found if isinstance(found, dict) and "fingerprint" in found else None


def write_result(place: Path, result: Mapping[str, Any]) -> None:
    """Writes what a stage found out, all or nothing."""
    beside = place / f"{RESULT}.part"
    try:
        beside.write_text(
            json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
        )
        beside.replace(place / RESULT)
    except OSError as error:
        raise SaveError(f"{place / RESULT} cannot be written: {error}") from error
