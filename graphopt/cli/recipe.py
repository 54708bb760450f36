"""graphopt recipe: the published pipelines, from a network and labelled images to a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import Device, File, Json, Names, Text, print_json, progress
from graphopt.errors import UsageError
from graphopt.toml import read_value

recipe_app = typer.Typer(
    help="Published pipelines: train, press, prune, distill, quantize, compile.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="A recipe of `graphopt recipe list`, or a .toml file.")]
Scale = Annotated[str, typer.Option(help="One of the recipe's scales: smoke, small, full.")]
Settings = Annotated[
    Names,
    typer.Option("--set", metavar="NAME=VALUE", help="Another value for a setting, as in TOML."),
]


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """Lists the recipes that come with graphopt."""
    from graphopt.recipes import known_recipes
    from graphopt.report.terminal import console, print_rows
    from graphopt.toml import read_toml

    rows = []
    for name, path in known_recipes().items():
        tables = read_toml(path, "recipe")
        scales = ", ".join(tables.get("scale", {}))
        rows.append({"name": name, "title": tables.get("title", ""), "scales": scales})
    if as_json:
        print_json(rows)
        return
    print_rows(console(), ["recipe", "what it does", "scales"], (list(r.values()) for r in rows))


@recipe_app.command("run")
def recipe_run(
    name: Name,
    output: Annotated[
        File, typer.Option("-o", "--output", help="Where everything is kept; out/NAME-SCALE.")
    ] = None,
    scale: Scale = "small",
    data: Annotated[
        Text, typer.Option(help="Labelled images to train on, KIND:WHERE, not the recipe's.")
    ] = None,
    test: Annotated[Text, typer.Option(help="Labelled images to judge by, likewise.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run it so many times, seeds 0, 1, ...")] = 1,
    stage: Annotated[
        Names, typer.Option(help="Only this stage and what it comes from (repeatable).")
    ] = None,
    setting: Settings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Runs a recipe; the same command goes on where a run was stopped."""
    from graphopt.recipes import find_recipe, read_recipe, run_recipe

    recipe = read_recipe(
        find_recipe(name), scale, train=data, test=test, settings=_settings(setting or [])
    )
    folder = output or Path("out") / f"{recipe.name}-{scale}"
    with progress() as telling:
        results = run_recipe(
            recipe,
            folder,
            seeds=range(seeds),
            stages=stage or [],
            device=device,
            watch=telling.watch,
            progress=telling,
        )
    page = _report(recipe, results, folder)
    _tell(recipe, results, page, as_json=as_json)


def _settings(texts: list[str]) -> dict[str, Any]:
    """NAME=VALUE, the value as the recipe's file would have it; what is no TOML is a word."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r}: write NAME=VALUE")
        found[name] = read_value(value)
    return found


def _report(recipe: Any, results: list[dict[str, Any]], folder: Path) -> Path:
    """Writes the report of all stages beside them."""
    from graphopt.recipes.picture import picture
    from graphopt.recipes.table import answers, cells, columns
    from graphopt.report.recipe import write_recipe

    content = {
        "title": recipe.title,
        "source": recipe.source,
        "scale": recipe.scale,
        "train": recipe.train,
        "test": recipe.test,
        "heads": columns(results, recipe.metric),
        "rows": cells(results, recipe.metric),
        "claims": answers(results, recipe.claims, recipe.metric),
        "picture": picture(results, recipe.metric, recipe.title),
        "results": results,
    }
    return write_recipe(content, folder)


def _tell(recipe: Any, results: list[dict[str, Any]], page: Path, *, as_json: bool) -> None:
    from graphopt.recipes.table import answers, cells, columns
    from graphopt.report.terminal import console, print_rows

    checked = answers(results, recipe.claims, recipe.metric)
    if as_json:
        print_json({"recipe": recipe.name, "results": results, "claims": checked})
        return
    out = console()
    out.print(f"{recipe.title}\n({recipe.source}); scale {recipe.scale}", markup=False)
    print_rows(out, columns(results, recipe.metric), cells(results, recipe.metric))
    if recipe.scale == "smoke":
        out.print("a smoke run shows that every step works, not how well", markup=False)
    for each in checked if recipe.scale != "smoke" else ():
        word = "holds" if each["holds"] else "does not hold"
        out.print(f"{each['claim']}: {each['mean']:+.1f} points, {word}", markup=False)
    out.print(f"wrote {page}", markup=False)
