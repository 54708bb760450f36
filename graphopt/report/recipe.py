"""The report of a recipe: its picture, its table, and what became of the paper's claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt import __version__
from graphopt.report.page import filled, write_texts

Document = Mapping[str, Any]

SCHEMA = "graphopt-recipe-report/1"


def write_recipe(content: Document, folder: Path) -> Path:
    """Writes report.json and report.html into `folder` and returns the path of the page.

    Args:
        content: "title", "source", "scale", "train", "test", "heads" and "rows" of the table,
            "claims" (see graphopt.recipes.table.answers), "picture" (an SVG of ours), "results".
        folder: made if it is not there.

    Raises:
        SaveError: they cannot be written; what was there before is left as it was.
    """
    document = {"schema": SCHEMA, **{k: v for k, v in content.items() if k != "picture"}}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_texts({"report.json": text, "report.html": render_recipe(content)}, folder)
    return folder / "report.html"


def render_recipe(content: Document) -> str:
    """The page; see `write_recipe`."""
    from markupsafe import Markup

    results = content["results"]
    versions = ", ".join(f"{k} {v}" for k, v in results[0]["versions"].items())
    seeds = len({r["seed"] for r in results})
    is_smoke = content["scale"] == "smoke"
    return filled(
        "recipe.html.jinja",
        {},
        version=__version__,
        title=content["title"],
        source=content["source"],
        warning="a smoke run shows that every step works, not how well" if is_smoke else "",
        picture=Markup(content["picture"]),
        heads=content["heads"],
        rows=content["rows"],
        claims=[] if is_smoke else _claims(content["claims"]),
        about=f"Scale {content['scale']}, {seeds} {'seed' if seeds == 1 else 'seeds'}, trained on "
        f"{content['train']}, judged on {results[0]['images']} images of {content['test']}; {versions}.",
    )


def _claims(answers: Sequence[Document]) -> list[dict[str, Any]]:
    rows = []
    for each in answers:
        within = f" (within {each['within']:g})" if each["within"] else ""
        noisy = not each["clear"] and len(each["points"]) > 1
        answer = "holds" if each["holds"] else "does not hold"
        rows.append(
            {
                "text": f"{each['claim']}{within}",
                "points": f"{each['mean']:+.1f}".replace("-", "\N{MINUS SIGN}"),
                "holds": each["holds"],
                "answer": f"{answer}, within the noise of the seeds" if noisy else answer,
            }
        )
    return rows
