"""What the page draws of a quantization: what every rounding alone costs the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

_TOP = 60.0  # decibels: better than that is drawn as that
_SHOWN = 40


def roundings(found: Document | None) -> dict[str, Any] | None:
    """Bars per rounding, worst first, and rows for the worst; None when nothing was quantized."""
    if found is None:
        return None
    effects = found["effects"]
    grids = found["grids"]
    return {
        "target": found["target"],
        "method": found["method"],
        "integer": len(found["nodes"]),
        "products": found["products"],
        "kept": sorted(found["sqnr"].items(), key=lambda item: item[1]),
        "bars": [_bar(e) for e in effects],
        "rows": [{**e, "grid": _grid(grids.get(e["tensor"]))} for e in effects[:_SHOWN]],
        "more": max(0, len(effects) - _SHOWN),
        "at_floor": f"{100 * min(found['floor'], _TOP) / _TOP:g}",
    }


def _bar(effect: Document) -> dict[str, Any]:
    kind = "weight" if effect["is_weight"] else "activation"
    where = ", ".join(effect["nodes"][:3])
    left = "; stays in float" if effect["float"] else "; in 16 bits" if effect["wide"] else ""
    return {
        "height": f"{100 * min(max(effect['sqnr'], 0.0), _TOP) / _TOP:.4g}",
        "float": effect["float"],
        "title": f"{kind} {effect['tensor']}\nread by {where}\n{effect['sqnr']:.1f} dB{left}",
    }


def _grid(grid: Document | None) -> str:
    return "" if grid is None else f"{grid['type']}, step {grid['scale']:.3g}, zero {grid['zero']}"
