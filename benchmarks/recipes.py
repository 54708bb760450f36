"""The published systems end to end: runs recipes, and writes the tables and pictures of their pages.

    python -m benchmarks.recipes --only hybrid-attention --seeds 3 [--scale small] [--data ... --test ...]
    python -m benchmarks.recipes --pages          # the pages again, from the results that are there

Results stand in docs/recipes/results/NAME-SCALE.json with versions, seeds and seconds, written after every
seed; seeds that stand there of the recipe as it is written now are not run again, and a run that was
stopped goes on (out/recipes). With --peers Torch-Pruning prunes the same networks, trained with the same
loop, images, loss and epochs (benchmarks/recipe_peers.py); its rows stand behind the recipe's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from benchmarks.markdown import as_markdown
from benchmarks.recipe_peers import PEERS, run_peers
from graphopt.recipes import Recipe, find_recipe, known_recipes, read_recipe, run_recipe
from graphopt.recipes.picture import picture
from graphopt.recipes.stage import Ground, stage_print
from graphopt.recipes.table import answers, cells, columns
from graphopt.training import Terminal

PAGES = Path(__file__).parents[1] / "docs" / "recipes"
RESULTS = PAGES / "results"
_TABLE = r"<!-- results {mark} -->\n.*?<!-- end -->"


def main() -> None:
    """Runs what is asked for and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*known_recipes()])
    parser.add_argument("--scale", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stage", action="append", default=[])
    parser.add_argument("--data")
    parser.add_argument("--test")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--mark", default="", help="put behind the name of the results")
    parser.add_argument("--peers", action="store_true", help="Torch-Pruning's rows too")
    parser.add_argument("--pages", action="store_true", help="only write the pages again")
    options = parser.parse_args()
    if not options.pages:
        for name in options.only or known_recipes():
            run(name, options)
    write_pages()


def run(name: str, options: argparse.Namespace) -> None:
    """Runs one recipe and keeps its results."""
    given = dict(item.split("=", 1) for item in options.set)
    recipe = read_recipe(
        find_recipe(name),
        options.scale,
        train=options.data,
        test=options.test,
        settings={k: int(v) if v.isdigit() else v for k, v in given.items()},
    )
    mark = f"{name}-{options.scale}{options.mark}"
    folder, path = Path("out/recipes") / mark, RESULTS / f"{mark}.json"
    peers = {p.name for p in PEERS[name]} if options.peers else set()
    found = measured(path, recipe, peers)
    for seed in range(options.seeds):
        if any(r["seed"] == seed for r in found):
            continue
        found += run_recipe(
            recipe, folder, seeds=[seed], stages=options.stage, watch=Terminal, progress=_tell
        )
        if options.peers:
            found += run_peers(recipe, folder, [seed], Terminal, _tell)
        write_results(path, recipe, found)


def measured(path: Path, recipe: Recipe, peers: Set[str]) -> list[dict[str, Any]]:
    """Results that stand in a file, of seeds with the peers and with every stage as the recipe is now."""
    if not path.exists():
        return []
    results = json.loads(path.read_text("utf-8"))["results"]
    now = []
    for seed in sorted({r["seed"] for r in results}):
        own = [r for r in results if r["seed"] == seed]
        ground = Ground(recipe, path.parent, seed, "cpu", Terminal)
        wanted = {stage_print(ground, stage) for stage in recipe.stages}
        if wanted <= {r["fingerprint"] for r in own} and peers <= {r["stage"] for r in own}:
            now.append(seed)
    return [r for r in results if r["seed"] in now]


def write_results(path: Path, recipe: Recipe, found: Sequence[Mapping[str, Any]]) -> None:
    """Keeps what was measured, with the settings it was measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "recipe": recipe.name,
        "scale": recipe.scale,
        "train": recipe.train,
        "test": recipe.test,
    }
    content["settings"] = dict(recipe.settings)
    content["results"] = [kept(r) for r in found]
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def kept(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what nobody reads again: of training the last epoch is enough."""
    return {**result, "training": result["training"][-1:], "did": result["did"][:3]}


def write_pages() -> None:
    """Puts every result's table and claims where its page has the mark, and its picture beside."""
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        recipe = read_recipe(find_recipe(content["recipe"]), content["scale"])
        page = PAGES / f"{recipe.name}.md"
        pattern = re.compile(_TABLE.format(mark=re.escape(path.stem)), re.S)
        text = page.read_text("utf-8")
        block = f"<!-- results {path.stem} -->\n{body(recipe, content, path.stem)}\n<!-- end -->"
        page.write_text(pattern.sub(lambda _, b=block: b, text), "utf-8")
        drawn = picture(content["results"], recipe.metric, recipe.title)
        (RESULTS / f"{path.stem}.svg").write_text(drawn, "utf-8")


def body(recipe: Recipe, content: Mapping[str, Any], stem: str) -> str:
    """The table, the claims and the picture of one result as Markdown."""
    results: Sequence[Mapping[str, Any]] = content["results"]
    heads = columns(results, recipe.metric)
    rows = cells(results, recipe.metric)
    seeds = len({r["seed"] for r in results})
    first = results[0]
    versions = ", ".join(f"{k} {v}" for k, v in first["versions"].items())
    told = (
        f"Scale **{content['scale']}**, {seeds} seed{'s' if seeds > 1 else ''}, trained on "
        f"`{content['train']}`, judged on {first['images']} images of `{content['test']}`; {versions}."
    )
    claims = [
        f"- {_claimed(a)}: {a['mean']:+.1f} points ("
        + ", ".join(f"{p:+.1f}" for p in a["points"])
        + f"): {'holds' if a['holds'] else '**does not hold**'}"
        + ("" if a["clear"] or len(a["points"]) < 2 else ", within the noise of the seeds")
        + "."
        for a in answers(results, recipe.claims, recipe.metric)
    ]
    return "\n".join(
        [
            told,
            "",
            as_markdown(heads, rows),
            "",
            *claims,
            *fewer(results),
            "",
            f"![accuracy against cost](results/{stem}.svg)",
        ]
    )


def fewer(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """For every board how many times fewer cycles the cheapest stage takes than the first."""
    lines = []
    for board in dict.fromkeys(b for r in results for b in r["boards"]):
        counted = [r for r in results if r["boards"].get(board, {}).get("cycles")]
        if len({r["stage"] for r in counted}) < 2:
            continue
        last = min(counted, key=lambda r: r["boards"][board]["cycles"])
        times = counted[0]["boards"][board]["cycles"] / last["boards"][board]["cycles"]
        lines.append(
            f"- {board}: {times:.1f} times fewer cycles: {counted[0]['text']}, against {last['text']}."
        )
    return lines


def _claimed(answer: Mapping[str, Any]) -> str:
    within = f" (within {answer['within']:g})" if answer["within"] else ""
    return f"{answer['claim']}{within}"


if __name__ == "__main__":
    main()
