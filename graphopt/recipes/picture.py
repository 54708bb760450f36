"""Accuracy against cost, every stage a point: an SVG that needs no script.

Across: multiply-accumulates on a logarithmic scale, cheaper to the left. Up: the metric in percent, the
mean over seeds with a line as long as the standard deviation on both sides. Lines go from a stage
to what was made of it; ablations and peers are hollow. What costs the same stands side by side.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.report.figures import count

Result = Mapping[str, Any]

_WIDE, _HIGH = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 250, 20, 50
_STEP = 20  # pixels between points of one cost
_INK, _SOFT, _MINE, _OTHER = "#1f2328", "#d0d7de", "#0969da", "#9a6700"


@dataclass(frozen=True)
class Point:
    """A stage over its seeds: cost, mean and spread of the metric in percent."""

    stage: str
    text: str
    source: str | None
    solid: bool
    macs: float
    mean: float
    spread: float


def points(results: Sequence[Result], metric: str) -> list[Point]:
    """One per stage, in the order of the results."""
    found = []
    for stage in dict.fromkeys(r["stage"] for r in results):
        mine = [r for r in results if r["stage"] == stage]
        values = [100 * r["metrics"][metric] for r in mine]
        first = mine[0]
        found.append(
            Point(
                stage,
                first["text"],
                first["from"],
                not first["ablation"],
                statistics.mean(r["cost"]["macs"] for r in mine),
                statistics.mean(values),
                statistics.stdev(values) if len(values) > 1 else 0.0,
            )
        )
    return found


def picture(results: Sequence[Result], metric: str, title: str) -> str:
    """The SVG."""
    found = points(results, metric)
    across, up = _scales(found)
    places = {p.stage: (x, up(p.mean)) for p, x in _apart(found, across)}
    parts = [*_axes(found, across, up, metric)]
    parts += [_arrow(places[p.source], places[p.stage]) for p in found if p.source in places]
    for number, point in enumerate(found, 1):
        parts += _mark(point, number, *places[point.stage], up)
    parts += _legend(found)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" '
        f'font-family="system-ui, sans-serif" font-size="12" role="img">\n'
        f"<title>{html.escape(title)}</title>\n"
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _scales(found: Sequence[Point]) -> tuple[Any, Any]:
    logs = [math.log10(max(p.macs, 1)) for p in found]
    low, high = min(logs) - 0.2, max(logs) + 0.1
    bottom = max(0.0, min(p.mean - p.spread for p in found) - 3)
    top = min(100.0, max(p.mean + p.spread for p in found) + 3)
    top = max(top, bottom + 1)

    def across(macs: float) -> float:
        share = (math.log10(max(macs, 1)) - low) / (high - low)
        return _LEFT + share * (_WIDE - _LEFT - _RIGHT)

    def up(value: float) -> float:
        share = (value - bottom) / (top - bottom)
        return _HIGH - _BOTTOM - share * (_HIGH - _TOP - _BOTTOM)

    return across, up


def _apart(found: Sequence[Point], across: Any) -> Iterator[tuple[Point, float]]:
    """Every point with its place across, a step beside those that would hide it."""
    taken: list[tuple[float, int]] = []
    for point in found:
        x = across(point.macs)
        beside = sum(abs(x - other) < _STEP for other, _ in taken)
        taken.append((x, beside))
        # the first in the middle, then right and left of it in turns
        yield point, x + _STEP * ((beside + 1) // 2) * (1 if beside % 2 else -1)


def _axes(found: Sequence[Point], across: Any, up: Any, metric: str) -> list[str]:
    right, bottom = _WIDE - _RIGHT, _HIGH - _BOTTOM
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="{_INK}"/>',
        (
            f'<text x="{(_LEFT + right) / 2}" y="{_HIGH - 10}" text-anchor="middle" fill="{_INK}">'
            "multiply-accumulates per image</text>"
        ),
        (
            f'<text transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle" '
            f'fill="{_INK}">{html.escape(metric)} (%)</text>'
        ),
    ]
    for macs in _ticks([p.macs for p in found]):
        x = across(macs)
        parts.append(
            f'<path d="M{x:.1f} {bottom}v5" stroke="{_INK}"/><text x="{x:.1f}" y="{bottom + 18}" '
            f'text-anchor="middle" fill="{_INK}">{count(macs).replace(" ", "")}</text>'
        )
    values = [p.mean for p in found]
    step = next(s for s in (1, 2, 5, 10, 20, 50) if (max(values) - min(values) + 6) / s <= 8)
    heights = [(v, y) for v in range(0, 101, step) if _TOP <= (y := up(v)) <= bottom]
    parts += [
        f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_SOFT}"/><text x="{_LEFT - 6}" '
        f'y="{y + 4:.1f}" text-anchor="end" fill="{_INK}">{value}</text>'
        for value, y in heights
    ]
    return parts


def _ticks(macs: Sequence[float]) -> list[float]:
    """Round numbers between the smallest and the largest, closer ones where those are near."""
    low, high = min(macs) * 0.85, max(macs) * 1.18
    powers = range(math.floor(math.log10(max(low, 1))), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for starts in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [f * 10.0**k for k in powers for f in starts if low <= f * 10.0**k <= high]
        if len(found) > 2:
            break
    return found


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    return (
        f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" stroke="{_SOFT}" '
        'stroke-width="2" fill="none"/>'
    )


def _mark(point: Point, number: int, x: float, y: float, up: Any) -> list[str]:
    colour = _MINE if point.solid else _OTHER
    fill = colour if point.solid else "#ffffff"
    ink = "#ffffff" if point.solid else colour
    parts = []
    if point.spread:
        low, high = up(point.mean - point.spread), up(point.mean + point.spread)
        parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
    parts.append(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{fill}" stroke="{colour}"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="10" fill="{ink}">'
        f"{number}</text>"
    )
    return parts


def _legend(found: Sequence[Point]) -> list[str]:
    parts = []
    x, y = _WIDE - _RIGHT + 16, _TOP + 14
    for number, point in enumerate(found, 1):
        for k, line in enumerate(_lines(f"{number}  {point.text}: {point.mean:.1f}")):
            colour = _MINE if point.solid else _OTHER
            shift = 0 if k == 0 else 14
            parts.append(
                f'<text x="{x + shift}" y="{y}" fill="{colour}">{html.escape(line)}</text>'
            )
            y += 15
    return parts


def _lines(text: str, most: int = 33) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) + 1 > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines
