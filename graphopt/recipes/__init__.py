"""Recipes: published pipelines from a network and labelled images to a small network, as data.

    recipe = read_recipe(find_recipe("hand-local-decay"), scale="small")
    run_recipe(recipe, Path("out"), seeds=[0])

A recipe is a TOML file of stages; every stage runs passes on the network of an earlier one and
leaves an ONNX file with what was measured of it.
"""

from graphopt.recipes.recipe import Claim, Recipe, Stage, find_recipe, known_recipes, read_recipe
from graphopt.recipes.run import run_recipe

__all__ = [
    "Claim",
    "Recipe",
    "Stage",
    "find_recipe",
    "known_recipes",
    "read_recipe",
    "run_recipe",
]
