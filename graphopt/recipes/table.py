"""What a recipe found out, as a table and as the answers to its claims.

Metrics are means over seeds with their standard deviation behind them; cost is that of the first seed
(what is removed may differ a little between seeds).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.recipes.recipe import Claim
from graphopt.report.figures import count, size

Result = Mapping[str, Any]


def columns(results: Sequence[Result], metric: str) -> list[str]:
    """The heads of the table."""
    boards = _boards(results)
    return [
        "stage",
        ">params",
        ">MACs",
        ">file",
        f">{metric} (%)",
        *(f">{board}" for board in boards),
        ">s",
    ]


def cells(results: Sequence[Result], metric: str) -> list[list[str]]:
    """A row per stage, in the order of the recipe."""
    rows = []
    for stage in dict.fromkeys(r["stage"] for r in results):
        mine = [r for r in results if r["stage"] == stage]
        first = mine[0]
        name = first["text"] + (" (ablation)" if first["ablation"] else "")
        rows.append(
            [
                name,
                count(first["cost"]["parameters"]),
                count(first["cost"]["macs"]),
                size(first["cost"]["file_bytes"]),
                spread([100 * r["metrics"][metric] for r in mine]),
                *(_on(first, board) for board in _boards(results)),
                f"{statistics.mean(r['seconds'] for r in mine):.0f}",
            ]
        )
    return rows


def answers(
    results: Sequence[Result], claims: Sequence[Claim], metric: str
) -> list[dict[str, Any]]:
    """For every claim the difference in points over the seeds that have both stages, and whether it holds.

    It holds when the mean difference is above 0 (above -`within`); `clear` when it is further from
    there than its standard error.
    """
    found = []
    for claim in claims:
        differences = _differences(results, claim, metric)
        if not differences:
            continue
        mean = statistics.mean(differences)
        error = (
            statistics.stdev(differences) / len(differences) ** 0.5
            if len(differences) > 1
            else float("inf")
        )
        found.append(
            {
                "claim": claim.text,
                "better": claim.better,
                "worse": claim.worse,
                "points": differences,
                "mean": mean,
                "within": claim.within,
                "holds": mean > -claim.within,
                "clear": abs(mean + claim.within) > error,
            }
        )
    return found


def spread(values: Sequence[float]) -> str:
    """ "71.3" for one value, "71.3 ± 0.4" for several."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def _differences(results: Sequence[Result], claim: Claim, metric: str) -> list[float]:
    by = {(r["stage"], r["seed"]): 100 * r["metrics"][metric] for r in results}
    seeds = sorted({seed for _, seed in by})
    return [
        by[claim.better, seed] - by[claim.worse, seed]
        for seed in seeds
        if (claim.better, seed) in by and (claim.worse, seed) in by
    ]


def _boards(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(board for r in results for board in r["boards"]))


def _on(result: Result, board: str) -> str:
    found = result["boards"].get(board)
    if found is None:
        return ""
    if found.get("cycles"):
        return f"{count(found['cycles'])} cycles"
    if "seconds" in found:
        return f"{found['seconds']:.3g} ms"
    return f"{count(found['instructions'])} instr."
