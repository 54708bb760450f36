"""The tables of benchmarks.prune_accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.markdown import as_markdown
from graphopt.report.terminal import console, print_rows


@dataclass(frozen=True)
class Row:
    """What one recipe left of a network; `note` says why there is no score."""

    network: str
    macs: float
    importance: str
    allocation: str
    compensation: str
    recalibration: bool
    before: float
    score: float | None = None
    kept: float | None = None
    macs_left: float | None = None
    seconds: float | None = None
    note: str = ""


def show(name: str, rows: Sequence[Row]) -> None:
    """The table of one network."""
    print(f"\n{name}: {rows[0].before:.3f} before" if rows else f"\n{name}")
    print_rows(console(), *table_of(rows))
    for note in dict.fromkeys(f"{r.importance}, {r.allocation}: {r.note}" for r in rows if r.note):
        print(f"  {note}")


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A line per recipe, a column per budget."""
    budgets = list(dict.fromkeys(r.macs for r in rows))
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for row in rows:
        if row.score is not None:
            how = row.compensation + (" + recalibration" if row.recalibration else "")
            key = (row.importance, row.allocation, how)
            lines.setdefault(key, {})[row.macs] = f"{row.score:.3f} ({row.kept:.0%})"
    columns = ["importance", "allocation", "compensation", *(f">{m:.0%} MACs" for m in budgets)]
    return columns, [[*k, *(v.get(m, "") for m in budgets)] for k, v in lines.items()]


def summaries(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Means over networks: importances, allocations and compensations, best first."""
    free = [r for r in rows if not r.recalibration]
    same = [r for r in free if r.allocation == "isomorphic"]
    spread = {(r.network, r.importance) for r in rows if r.allocation != "isomorphic"}
    allocated = [
        r
        for r in free
        if (r.network, r.importance) in spread and r.compensation in ("none", "linear")
    ]
    final = {(r.network, r.importance, r.allocation) for r in rows if r.compensation == "mean"}
    made_up = [r for r in rows if (r.network, r.importance, r.allocation) in final]
    return [
        _summary("Importances", [r for r in same if r.compensation in ("none", "linear")]),
        _summary("Allocations, with each network's best importance", allocated, "allocation"),
        _summary("Compensations, with each network's best recipe", made_up, "compensation"),
    ]


def _summary(
    title: str, rows: Sequence[Row], by: str = "importance"
) -> tuple[str, list[str], list[list[str]]]:
    def key(row: Row) -> str:
        again = " + recalibration" if row.recalibration else ""
        return str(getattr(row, by)) + (again if by == "compensation" else "")

    def column(row: Row) -> str:
        how = "" if by == "compensation" else f"{row.compensation}, "
        return f">{how}{row.macs:.0%} MACs"

    kept = means(rows, lambda r: (key(r), column(r)))
    names = sorted({k for k, _ in kept}, key=lambda n: -means(rows, key)[n])
    columns = sorted({c for _, c in kept}, reverse=True)
    body = [[n, *(f"{kept[n, c]:.0%}" if (n, c) in kept else "" for c in columns)] for n in names]
    return title, [by, *columns], body


def page(rows: Sequence[Row], intro: str) -> str:
    """The tables as Markdown, under a few sentences of introduction."""
    parts = ["# Accuracy right after pruning\n", intro]
    for title, columns, body in summaries(rows):
        parts += [f"\n## {title}\n", as_markdown(columns, body)]
    for name in dict.fromkeys(r.network for r in rows):
        own = [r for r in rows if r.network == name]
        parts += [f"\n## {name}: {own[0].before:.3f} before\n", as_markdown(*table_of(own))]
    return "\n".join(parts) + "\n"


def means(rows: Sequence[Row], by: Callable[[Row], Any]) -> dict[Any, float]:
    """The mean share that is kept, over the networks and budgets of each key."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if row.kept is not None:
            found.setdefault(by(row), []).append(row.kept)
    return {k: statistics.mean(v) for k, v in found.items()}
