"""Every published recipe runs from end to end, small; what it is worth is not judged here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.frontends.onnx_file import load
from graphopt.recipes import find_recipe, known_recipes, read_recipe, run_recipe
from graphopt.runtime.run import open_graph


@pytest.mark.slow
@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_runs_from_end_to_end(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(find_recipe(name), "smoke")
    results = run_recipe(recipe, tmp_path, device="cpu")
    assert [r["stage"] for r in results] == [s.name for s in recipe.stages]
    first = results[0]
    for each in results:
        assert np.isfinite(list(each["training"][-1].values())).all() if each["training"] else True
        assert recipe.metric in each["metrics"]
        graph = load(tmp_path / "seed0" / each["stage"] / "model.onnx")
        shape = [1 if not isinstance(d, int) else d for d in graph.inputs[0].shape]
        found = open_graph(graph).run({graph.inputs[0].name: np.zeros(shape, np.float32)})
        assert all(np.isfinite(v).all() for v in found.values())
    smallest = min(r["cost"]["macs"] for r in results)
    if name != "hybrid-attention":  # where nothing is removed: the student is narrower
        assert smallest <= 0.75 * first["cost"]["macs"]
