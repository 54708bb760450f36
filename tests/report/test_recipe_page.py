"""The page of a recipe: picture, table and claims, and nothing in it that a name could smuggle in."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import SaveError
from graphopt.recipes.picture import picture
from graphopt.recipes.recipe import Claim
from graphopt.recipes.table import answers, cells, columns
from graphopt.report.recipe import render_recipe, write_recipe

HOSTILE = "<script>alert(1)</script>"


def result(stage: str, seed: int, share: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "text": f"{stage} {HOSTILE}",
        "from": None,
        "ablation": stage == "worse",
        "seed": seed,
        "seconds": 3.0,
        "images": 8,
        "boards": {"tx2": {"cycles": 1.5e6}},
        "cost": {"parameters": 1000, "macs": 2e6, "file_bytes": 5e3},
        "metrics": {"ap50": share},
        "versions": {"torch": "2"},
    }


def content(scale: str = "small") -> dict[str, Any]:
    results = [result("good", k, 0.5 + k / 10) for k in (0, 1)]
    results += [result("worse", k, 0.4 + k / 5) for k in (0, 1)]
    claims = [
        Claim("good over worse", "good", "worse"),
        Claim("worse is near", "worse", "good", 20),
        Claim("worse over good", "worse", "good"),
    ]
    return {
        "title": f"A title {HOSTILE}",
        "source": "nobody",
        "scale": scale,
        "train": "shapes:train",
        "test": "shapes:test",
        "heads": columns(results, "ap50"),
        "rows": cells(results, "ap50"),
        "claims": answers(results, claims, "ap50"),
        "picture": picture(results, "ap50", "A title"),
        "results": results,
    }


class Read(HTMLParser):
    """Elements, and the text of the table's cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")
        self.inside = tag in ("td", "span") or (self.inside and tag == "code")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside and self.cells:
            self.cells[-1] += data


def test_picture_table_and_claims() -> None:
    found = Read(render_recipe(content()))
    assert found.tags.count("svg") == 1
    assert f"good {HOSTILE}" in found.cells
    assert "55.0 ± 7.1" in found.cells
    assert "1.5 M cycles" in found.cells
    at = found.cells.index("good over worse")
    assert found.cells[at + 1 : at + 3] == ["+5.0", "holds, within the noise of the seeds"]
    at = found.cells.index("worse is near (within 20)")
    assert found.cells[at + 1 : at + 3] == ["\N{MINUS SIGN}5.0", "holds"]
    at = found.cells.index("worse over good")
    assert found.cells[at + 2].startswith("does not hold")


def test_nothing_in_it_runs_or_loads() -> None:
    page = render_recipe(content())
    assert not {"script", "img", "link", "iframe"} & set(Read(page).tags)
    assert "default-src 'none'" in page
    assert "<script>" not in page


def test_a_smoke_run_claims_nothing() -> None:
    page = render_recipe(content("smoke"))
    assert "not how well" in page
    assert "What the paper says" not in page


def test_it_is_written_beside_its_figures(tmp_path: Path) -> None:
    page = write_recipe(content(), tmp_path / "out")
    assert page.read_text("utf-8") == render_recipe(content())
    kept = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [c["holds"] for c in kept["claims"]] == [True, True, False]
    assert "picture" not in kept
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="is a file"):
        write_recipe(content(), tmp_path / "file")
