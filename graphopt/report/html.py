"""The report as one HTML page, drawn from the JSON document alone.

How a template becomes a page that loads and runs nothing: graphopt.report.page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.report import board, figures
from graphopt.report.curves import curves
from graphopt.report.gammas import gammas
from graphopt.report.page import filled, write_texts
from graphopt.report.roundings import roundings
from graphopt.report.widths import widths

Document = Mapping[str, Any]

_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_PASS_COLUMNS: tuple[tuple[str, figures.Show], ...] = (
    ("nodes", str),
    ("parameters", figures.count),
    ("macs", figures.count),
    ("weight_bytes", figures.size),
)
_TICKS_X = 12
_TICKS_Y = 4


def write_report(content: Document, folder: str | Path) -> Path:
    """Writes report.json and report.html into `folder` and returns the path of the page.

    Raises:
        SaveError: they cannot be written; what was there before is left as it was.
    """
    # The document's module knows the whole optimizer; drawing a page needs none of that.
    from graphopt.report.document import to_json

    texts = {"report.json": to_json(dict(content)), "report.html": render(content)}
    write_texts(texts, Path(folder))
    return Path(folder) / "report.html"


def render(content: Document) -> str:
    """The page of a report document: of this run, or of a report.json written earlier."""
    filters: dict[str, Callable[..., Any]] = {
        "count": lambda value: thin(figures.count(value)),
        "size": lambda value: thin(figures.size(value)),
        "ms": lambda value: thin(figures.milliseconds(value)),
        "error": figures.error,
        "shape": figures.shape,
        "thin": thin,
        "width": _width,
        "percent": lambda share: thin(f"{share:.1%}".replace("%", " %")),
    }
    return filled("report.html.jinja", filters, report=content, **_view(content))


def thin(text: str) -> str:
    """A figure for print: a thin space before its unit, where no line breaks, and real minus signs."""
    unbroken = " → ".join(part.replace(" ", _THIN_SPACE) for part in text.split(" → "))
    return unbroken.replace("-", "\N{MINUS SIGN}")


# --- what the template draws ------------------------------------------------------------------


def _view(content: Document) -> dict[str, Any]:
    before, after = content["before"], content["after"]
    return {
        "name": Path(before["path"]).name,
        "verdict": verdict(content["verification"]),
        "cards": [_card(before, after, *total) for total in figures.TOTALS],
        "flops": thin(figures.moved(2 * before["macs"], 2 * after["macs"], figures.count)),
        "latency": _latency(content["latency"]),
        "passes": [_pass(row) for row in content["passes"]],
        "operators": _operators(before["operators"], after["operators"]),
        "shares": sorted(content["operator_shares"].items(), key=lambda kv: (-kv[1], kv[0])),
        "plots": _plots(after["layers"]),
        "widths": widths(content.get("pruning")),
        "curves": curves(content.get("training")),
        "gammas": [gammas(each) for each in content.get("sparsity", ())],
        "roundings": roundings(content.get("quantization")),
        "accuracy": content.get("accuracy"),
        "board": _board(content.get("bundle"), content.get("bench")),
        "stages": content["seconds"],
    }


def _board(bundle: Document | None, bench: Document | None) -> dict[str, Any] | None:
    """The bundle in a line, and the table of what it takes; None where nothing was compiled."""
    if bundle is None:
        return None
    memory = bundle["memory"]
    facts = [
        f"{bundle['board']}; {bundle['libc']}",
        bundle["precision"],
        f"{figures.size(bundle['bytes'])} in {Path(bundle['path']).name}",
        f"{figures.size(memory['arena'])} of memory for images",
    ]
    table = board.engines(bench) if bench else None
    remarks = list(board.remarks(bench)) if bench else []
    return {"target": bundle["target"], "facts": facts, "table": table, "remarks": remarks}


def verdict(verification: Document) -> dict[str, str]:
    """The headline: what is known about the outputs. `kind` is good, open or bad."""
    error, tolerance = verification["error"], verification["tolerance"]
    if verification["executor"] is None:
        return {
            "kind": "open",
            "title": "Not verified",
            "text": "the outputs were not compared, as asked; nothing is proven about this result",
        }
    if error is None and verification.get("proofs"):
        return {
            "kind": "good",
            "title": "Removal proven",
            "text": "before compensation and training it equals the original with the removed channels "
            f"zeroed ({'; '.join(verification['proofs'])}); its outputs were meant to change",
        }
    if error is None:
        return {
            "kind": "open",
            "title": "Outputs changed on purpose",
            "text": f"the result runs in {verification['executor']}, but a pass that means to "
            "change the outputs was asked for, so they were not held to a tolerance",
        }
    equal = error <= tolerance
    samples = len(verification["samples"])
    optimizations = " (optimizations off)" if verification["executor"] == "onnxruntime" else ""
    return {
        "kind": "good" if equal else "bad",
        "title": "Outputs proven equal" if equal else "Outputs differ",
        "text": f"worst error {figures.error(error)} {'≤' if equal else '>'} tolerance "
        f"{figures.error(tolerance)} over {samples} sample{'' if samples == 1 else 's'} "
        f"in {verification['executor']}{optimizations}",
    }


def _card(
    before: Document, after: Document, label: str, key: str, show: figures.Show
) -> dict[str, Any]:
    old, new = before[key], after[key]
    return {
        "label": label,
        "key": key,
        "before": thin(show(old)),
        "after": thin(show(new)),
        "exact": f"{old:,} → {new:,}",
        "change": thin(figures.change(old, new)),
        "kind": _kind(old, new),
        **_bars(old, new),
    }


def _latency(latency: Document | None) -> dict[str, Any] | None:
    if latency is None:
        return None
    ratio = latency["ratio"]
    # The machine is shared: a few percent come and go by themselves and deserve no colour.
    kind = "same" if abs(ratio - 1) < 0.03 else _kind(1, ratio)
    return {**latency, "kind": kind, "bars": _bars(latency["before_ms"], latency["after_ms"])}


def _bars(before: float, after: float) -> dict[str, str]:
    largest = max(before, after) or 1
    return {"before_width": _width(before / largest), "after_width": _width(after / largest)}


def _kind(before: float, after: float) -> str:
    if before == after:
        return "same"
    return "less" if after < before else "more"


def _pass(row: Document) -> dict[str, Any]:
    before, after = row["before"], row["after"]
    return {
        **row,
        "figures": [
            {
                "text": thin(figures.moved(before[key], after[key], show)),
                "kind": _kind(before[key], after[key]),
            }
            for key, show in _PASS_COLUMNS
        ],
        "activations": thin(
            figures.moved(before["activation_bytes"], after["activation_bytes"], figures.size)
        ),
        "rewrite_groups": grouped(row["rewrites"]),
        "refusal_groups": grouped(row["refusals"]),
    }


def grouped(notes: Sequence[Document]) -> list[tuple[str, list[str]]]:
    """The places of each text, most frequent text first."""
    places: dict[str, list[str]] = {}
    for note in notes:
        places.setdefault(note["what"], []).append(note["where"])
    return sorted(places.items(), key=lambda kv: -len(kv[1]))


def _operators(before: Mapping[str, int], after: Mapping[str, int]) -> list[dict[str, Any]]:
    counts = [(op, before.get(op, 0), after.get(op, 0)) for op in {**before, **after}]
    largest = max((n for _, *pair in counts for n in pair), default=1)
    return [
        {
            "op": op,
            "before": old,
            "after": new,
            "difference": thin(f"{new - old:+d}") if new != old else "",
            "kind": _kind(old, new),
            "before_width": _width(old / largest),
            "after_width": _width(new / largest),
        }
        for op, old, new in sorted(counts, key=lambda c: (-max(c[1:]), -c[1], c[0]))
    ]


# --- plots ------------------------------------------------------------------------------------


def _plots(layers: Sequence[Document]) -> dict[str, Any] | None:
    """Two bar charts over the layers that multiply, in graph order, with one x axis."""
    shown = [(i, layer) for i, layer in enumerate(layers, 1) if layer["macs"]]
    if not shown:
        return None
    step = math.ceil(len(shown) / _TICKS_X)
    return {
        "layers": len(layers),
        "width": len(shown),
        "ticks": [{"at": k, "number": shown[k][0]} for k in range(0, len(shown), step)],
        "charts": [_chart(shown, "macs", "MACs"), _chart(shown, "parameters", "parameters")],
    }


def _chart(shown: Sequence[tuple[int, Document]], key: str, unit: str) -> dict[str, Any]:
    step, top = _scale(max(layer[key] for _, layer in shown))
    heaviest = max(shown, key=lambda pair: pair[1][key])[1]
    return {
        "key": key,
        "title": f"{unit[0].upper()}{unit[1:]} per layer",
        "label": f"{unit} of {len(shown)} layers in graph order; the most, "
        f"{figures.count(heaviest[key])}, are in {heaviest['name']}",
        "ticks": [
            {"text": thin(figures.count(k * step)), "at": f"{100 * k * step / top:g}"}
            for k in range(round(top / step) + 1)
        ],
        "bars": [
            {
                "height": f"{max(0.4, 100 * layer[key] / top):.4g}" if layer[key] else "0",
                "title": f"{i}: {layer['name']}\n{layer['op']} {figures.shape(layer['shape'])}\n"
                f"{figures.count(layer['macs'])} MACs, "
                f"{figures.count(layer['parameters'])} parameters",
            }
            for i, layer in shown
        ],
    }


def _scale(largest: float) -> tuple[float, float]:
    """The distance between ticks (1, 2 or 5 times a power of ten) and the end of the axis."""
    if not largest:
        return 1, 1
    power = 10.0 ** math.floor(math.log10(largest / _TICKS_Y))
    steps = (max(1.0, factor * power) for factor in (1, 2, 5, 10))
    step = next(s for s in steps if s * _TICKS_Y >= largest)
    return step, step * math.ceil(largest / step)


# --- helpers ----------------------------------------------------------------------------------


def _width(share: float) -> str:
    """A share as style sheets write it: 12.3%."""
    return f"{share:.1%}"
