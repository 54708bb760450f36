"""What the page draws of a pruning: every layer's channels before and after, and the group map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

_HUES = 137.508  # degrees between neighbours: the golden angle keeps them apart
_COSTS = ("macs", "parameters", "bytes", "activations", "channels")


def widths(pruning: Document | None) -> dict[str, Any] | None:
    """Bars per layer, one colour per channel group; rows per group; None when nothing was pruned."""
    if pruning is None:
        return None
    largest = max((row["before"] for row in pruning["layers"]), default=1)
    group_of = {name: k for k, g in enumerate(pruning["groups"]) for name in g["layers"]}
    several = {k for k, g in enumerate(pruning["groups"]) if len(g["layers"]) > 1}
    return {
        "largest": largest,
        "width": len(pruning["layers"]),
        "bars": [_bar(row, largest, group_of, several) for row in pruning["layers"]],
        "groups": [
            {**g, "colour": _colour(k), "left": g["after"] / g["before"]}
            for k, g in enumerate(pruning["groups"])
            if k in several
        ],
        "single": len(pruning["groups"]) - len(several),
        "costs": [
            (key, pruning["before"][key], pruning["after"][key])
            for key in _COSTS
            if pruning["before"].get(key)
        ],
        "held": pruning["held"],
        "done": pruning["done"],
    }


def _bar(
    row: Document, largest: int, group_of: Mapping[str, int], several: set[int]
) -> dict[str, Any]:
    group = group_of.get(row["layer"])
    coupled = group is not None and group in several
    return {
        "before": f"{100 * row['before'] / largest:.4g}",
        "after": f"{100 * row['after'] / largest:.4g}",
        "colour": _colour(group) if coupled and group is not None else "var(--after)",
        "title": f"{row['layer']}\n{row['before']} → {row['after']} channels"
        + (f"\ngroup {group}" if coupled else ""),
    }


def _colour(group: int) -> str:
    return f"hsl({group * _HUES % 360:.0f} 55% 50%)"
