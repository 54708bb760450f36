"""What the page draws of a sparsity training: how large channels were after every epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

_MOST_COLUMNS = 60
_TICKS_X = 12
_TICKS_Y = 4
_FAINTEST = 0.2


def gammas(found: Document) -> dict[str, Any]:
    """A heat map: a column per epoch, zero at the bottom, darker where there are more channels."""
    edges: Sequence[float] = found["edges"]
    rows = _spread(len(found["epochs"]))
    most = max((n for row in rows for n in found["epochs"][row]), default=0) or 1
    height = 100 / max(len(edges) - 1, 1)
    what = str(found["what"])
    return {
        "what": what,
        "title": f"{what} per epoch, s = {_three(found['s'])}, schedule {found['schedule']}",
        "label": f"distribution of {what} over {len(found['epochs']) - 1} epochs; {_told(found)}",
        "told": f"{_told(found)}.",
        "height": f"{height:.4g}",
        "columns": [_column(found, k, row, most, height) for k, row in enumerate(rows)],
        "ticks": [
            {"text": _three(edges[-1] * k / _TICKS_Y), "at": f"{100 * k / _TICKS_Y:g}"}
            for k in range(_TICKS_Y + 1)
        ],
        "epochs": [
            {"text": _three(found["at"][rows[k]]), "at": (k + 0.5) / len(rows)}
            for k in range(0, len(rows), -(-len(rows) // _TICKS_X))
        ],
    }


def _column(found: Document, place: int, row: int, most: int, height: float) -> dict[str, Any]:
    counts = found["epochs"][row]
    return {
        "x": f"{place + 0.02:g}",
        "title": f"epoch {_three(found['at'][row])}: mean {_three(found['mean'][row])}, "
        f"{_percent(found['small'][row])} below {_three(found['small_below'])}",
        "cells": [
            # Square roots, so that a few channels beside a thousand are to be seen.
            {
                "y": f"{100 - (k + 1) * height:.4g}",
                "opacity": f"{max(_FAINTEST, (count / most) ** 0.5):.2g}",
            }
            for k, count in enumerate(counts)
            if count
        ],
    }


def _told(found: Document) -> str:
    first, last = found["small"][0], found["small"][-1]
    return (
        f"{_percent(first)} of {sum(found['epochs'][0])} channels were below "
        f"{_three(found['small_below'])} before, {_percent(last)} are in the end"
    )


def _spread(count: int) -> list[int]:
    """All rows, or as many as can be told apart, with the first and the last."""
    if count <= _MOST_COLUMNS:
        return list(range(count))
    return [round(k * (count - 1) / (_MOST_COLUMNS - 1)) for k in range(_MOST_COLUMNS)]


def _three(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\N{NARROW NO-BREAK SPACE}%")
