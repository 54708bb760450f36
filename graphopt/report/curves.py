"""What the page draws of a training run: every number of its epochs as a small curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

_WIDTH, _HEIGHT, _MARGIN = 100.0, 40.0, 3.0


def curves(training: Document | None) -> list[dict[str, Any]]:
    """One curve per number that changes, in the order of the table; none without a training."""
    rows = training["rows"] if training else []
    names = dict.fromkeys(key for row in rows for key in row if key != "epoch")
    found = []
    for name in names:
        points = [(float(r["epoch"]), float(r[name])) for r in rows if name in r]
        found.append(_curve(name, points))
    return found


def _curve(name: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    epochs, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(values), max(values)
    across = (epochs[-1] - epochs[0]) or 1.0
    drawn = [
        (
            _MARGIN + (_WIDTH - 2 * _MARGIN) * (e - epochs[0]) / across,
            _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (v - low) / ((high - low) or 1.0),
        )
        for e, v in points
    ]
    return {
        "name": name,
        "first": _three(values[0]),
        "last": _three(values[-1]),
        "path": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn),
        "dots": [
            {"x": f"{x:.1f}", "y": f"{y:.1f}", "title": f"epoch {e:.3g}: {_three(v)}"}
            for (x, y), (e, v) in zip(drawn, points, strict=True)
        ],
        "label": f"{name} over {len(points)} epochs: {_three(values[0])} to {_three(values[-1])}, "
        f"lowest {_three(low)}, highest {_three(high)}",
    }


def _three(value: float) -> str:
    return f"{value:.3g}"
