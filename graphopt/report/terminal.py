"""The report for a terminal: tables that also read well in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Document = Mapping[str, Any]

# Piped output has no width of its own; rows must not wrap there.
_PIPED_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """A console for standard output (or error), wide enough for the tables when piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def print_optimized(out: Console, report: Document) -> None:
    """One row per pass, then the totals before and after, latency, notes."""
    table = _table(
        "pass", ">nodes", ">params", ">MACs", ">weights", ">rewrites", ">refused", ">ms", "verified"
    )
    for row in report["passes"]:
        table.add_row(*_pass_row(row))
    out.print(table)
    out.print(_totals(report["before"], report["after"]))
    out.print(_verified(report["verification"]))
    if report["latency"]:
        out.print(_latency(report["latency"]))
    for note in report["notes"]:
        out.print(f"note: {note}", markup=False)


def print_layers(
    out: Console, layers: Iterable[Mapping[str, Any]], totals: Mapping[str, Any]
) -> None:
    """The per-layer table of `graphopt inspect`, with its totals."""
    table = _table("layer", "op", "shape", ">params", ">MACs", ">activation")
    for layer in layers:
        shape = (
            "?"
            if layer["shape"] is None
            else "×".join(str(d) if d is not None else "?" for d in layer["shape"])
        )
        table.add_row(
            layer["name"],
            layer["op"],
            shape,
            count(layer["parameters"]) if layer["parameters"] else "",
            count(layer["macs"]) if layer["macs"] else "",
            size(layer["activation_bytes"]),
        )
    out.print(table)
    out.print(
        f"{totals['nodes']} nodes, {count(totals['parameters'])} parameters, "
        f"{count(totals['macs'])} MACs ({2 * totals['macs'] / 1e9:.2f} GFLOPs), "
        f"{size(totals['weight_bytes'])} weights, {size(totals['activation_bytes'])} activations"
    )


def print_comparison(out: Console, report: Document) -> None:
    """Two models side by side."""
    a, b = report["a"], report["b"]
    table = _table("", f">{a['path']}", f">{b['path']}", ">change")
    for label, key, show in _TOTALS:
        table.add_row(label, show(a[key]), show(b[key]), change(a[key], b[key]))
    operators = dict.fromkeys([*a["operators"], *b["operators"]])
    for op in operators:
        have, want = a["operators"].get(op, 0), b["operators"].get(op, 0)
        table.add_row(f"  {op}", str(have), str(want), "" if have == want else f"{want - have:+d}")
    out.print(table)
    out.print(_verified(report["verification"]))
    if report["latency"]:
        out.print(_latency(report["latency"]))


def print_rows(out: Console, columns: list[str], rows: Iterable[Iterable[str]]) -> None:
    """A plain table; a column whose name starts with '>' is right-aligned."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def count(value: float) -> str:
    """A count with three digits and a unit: 61.9 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return (
                f"{value / limit:.3g} {unit}"
                if value / limit < 999.5
                else f"{value / limit:.0f} {unit}"
            )
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with three digits and a decimal unit: 248 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return (
                f"{value / limit:.3g} {unit}"
                if value / limit < 999.5
                else f"{value / limit:.0f} {unit}"
            )
    return f"{value:.0f} B"


def change(before: float, after: float) -> str:
    """The relative change: -12.3 %, or nothing when equal."""
    if before == after:
        return ""
    return f"{(after - before) / before:+.1%}".replace("%", " %") if before else f"+{after}"


_TOTALS = (
    ("nodes", "nodes", str),
    ("parameters", "parameters", count),
    ("MACs", "macs", count),
    ("weights", "weight_bytes", size),
    ("activations", "activation_bytes", size),
    ("file", "file_bytes", size),
)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            name.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


def _pass_row(row: Document) -> list[str]:
    before, after = row["before"], row["after"]

    def moved(key: str, show: Any) -> str:
        same = before[key] == after[key]
        return show(after[key]) if same else f"{show(before[key])} → {show(after[key])}"

    return [
        row["text"],
        moved("nodes", str),
        moved("parameters", count),
        moved("macs", count),
        moved("weight_bytes", size),
        str(len(row["rewrites"])),
        str(len(row["refusals"])),
        f"{row['ms']:.0f}",
        _status(row),
    ]


def _status(row: Document) -> str:
    if row["status"] != "verified":
        return str(row["status"])
    return (
        str(row["detail"])
        if row["error"] is None
        else f"{row['error']:.1e} ≤ {row['tolerance']:.1e}"
    )


def _totals(before: Document, after: Document) -> Table:
    table = _table("", ">before", ">after", ">change")
    for label, key, show in _TOTALS:
        table.add_row(label, show(before[key]), show(after[key]), change(before[key], after[key]))
    return table


def _verified(verification: Document) -> str:
    if verification["executor"] is None:
        return "not verified: asked not to"
    if verification["error"] is None:
        return f"runs in {verification['executor']}; its outputs were meant to change"
    sign = "≤" if verification["error"] <= verification["tolerance"] else ">"
    word = "equal outputs" if sign == "≤" else "outputs differ"
    return (
        f"{word} in {verification['executor']} (its optimizations off): worst error "
        f"{verification['error']:.1e} {sign} {verification['tolerance']:.1e} over "
        f"{len(verification['samples'])} samples"
    )


def _latency(latency: Document) -> str:
    return (
        f"ONNX Runtime on this machine, {latency['threads']} threads: "
        f"{latency['before_ms']:.1f} ms → {latency['after_ms']:.1f} ms, ratio {latency['ratio']:.2f} "
        f"(medians of {latency['runs']} runs in turn)"
    )
