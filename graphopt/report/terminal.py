"""The report for a terminal: tables that also read well in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphopt.report import board
from graphopt.report.figures import (
    TOTALS,
    Show,
    change,
    count,
    error,
    milliseconds,
    moved,
    shape,
    size,
)

Document = Mapping[str, Any]

# Piped output has no width of its own; rows must not wrap there.
_PIPED_WIDTH = 160
_MOST_EPOCHS = 8  # columns of a training table


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
    shown = [r for r in report["passes"] if r["status"] != "unchanged" or r["refusals"]]
    for row in shown:
        _add(table, *_pass_row(row), style="dim" if row["status"] == "unchanged" else "")
    if shown:
        out.print(table)
    if idle := len(report["passes"]) - len(shown):
        out.print(f"(and {idle} pass{'es' if idle > 1 else ''} that found nothing to do)")
    out.print(_totals(report["before"], report["after"]))
    out.print(_verified(report["verification"]), markup=False)
    if report["latency"]:
        out.print(_latency(report["latency"]), markup=False)
    if report["bench"]:
        print_bench(out, report["bench"])
    for note in report["notes"]:
        out.print(f"note: {note}", markup=False)


def print_bench(out: Console, bench: Document, *, each_layer: bool = False) -> None:
    """A line for every engine on every model; before them, if asked for, a table for each."""
    for row in bench["rows"] if each_layer else ():
        if row["figures"]["layers"]:
            out.print(f"{row['model']}, {row['engine']}", markup=False)
            print_rows(out, *_numbers(board.layers(row), 1))
    print_rows(out, *_numbers(board.engines(bench), 2))
    for line in board.remarks(bench):
        out.print(line, markup=False)


def _numbers(cells: board.Cells, texts: int) -> board.Cells:
    """All columns but the first few are aligned as numbers."""
    head, rows = cells
    return [*head[:texts], *(f">{h}" for h in head[texts:])], rows


_WORST_ROUNDINGS = 6

_COST_UNITS: dict[str, Callable[[float], str]] = {
    "bytes": size,
    "activations": size,
    "latency": lambda seconds: milliseconds(seconds * 1e3),
}


def print_pruning(out: Console, pruning: Document) -> None:
    """Layer widths before and after, what it makes of the costs, and what had to stay."""
    table = _table("layer", ">channels", ">kept", ">kept %")
    for row in pruning["layers"]:
        same = row["before"] == row["after"]
        percent = f"{100 * row['after'] / row['before']:.0f}"
        _add(table, row["layer"], row["before"], row["after"], percent, style="dim" if same else "")
    out.print(table)
    costs = _table("", ">before", ">after", ">left")
    for metric, before in pruning["before"].items():
        after = pruning["after"][metric]
        if before:
            show = _COST_UNITS.get(metric, count)
            _add(costs, metric, show(before), show(after), f"{after / before:.1%}")
    out.print(costs)
    for note in pruning["held"]:
        out.print(f"kept: {note['where']}: {note['what']}", markup=False)
    for what in pruning["done"]:
        out.print(what, markup=False)


def print_training(out: Console, training: Document) -> None:
    """One row per number, one column per epoch (of many, some with the first and the last)."""
    rows = training["rows"]
    names = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
    last = len(rows) - 1
    shown = sorted({round(k * last / (_MOST_EPOCHS - 1)) for k in range(_MOST_EPOCHS)})
    table = _table("epoch", *(f">{rows[k]['epoch']:.3g}" for k in shown))
    for name in names:
        _add(table, name, *(f"{rows[k][name]:.3g}" if name in rows[k] else "" for k in shown))
    out.print(table)
    out.print(f"trained for {training['seconds']:.0f} s")


def print_quantization(out: Console, found: Document, accuracy: Document | None) -> None:
    """What computes in integers, and the roundings that cost most."""
    worst = found["effects"][:_WORST_ROUNDINGS]
    if worst:
        table = _table("rounded alone", "read by", ">outputs keep", "")
        for each in worst:
            left = "stays in float" if each["float"] else "in 16 bits" if each["wide"] else ""
            readers = _some(each["nodes"], 2)
            _add(table, each["tensor"], readers, f"{each['sqnr']:.1f} dB", left)
        out.print(table)
    done, whole = found["products"]
    out.print(
        f"{done} of {whole} products compute in integers for {found['target']} "
        f"({len(found['nodes'])} nodes in all)",
        markup=False,
    )
    if accuracy:
        before, after = 100 * accuracy["before"], 100 * accuracy["after"]
        out.print(
            f"{accuracy['metric']} {before:.2f} % → {after:.2f} % on {accuracy['images']} images of "
            f"{accuracy['data']}",
            markup=False,
        )


def print_groups(out: Console, found: Document) -> None:
    """One row per channel group, then what cannot be removed and why."""
    table = _table(">group", ">channels", "layers", ">parameters", "coupled through")
    for k, group in enumerate(found["groups"]):
        through = _some(group["through"], 3)
        _add(
            table,
            k,
            group["channels"],
            _some(group["layers"], 4),
            len(group["parameters"]),
            through,
        )
    out.print(table)
    held = _table("kept", ">channels", "because", "at")
    for row in found["held"]:
        _add(held, row["layer"], f"{row['channels']} of {row['of']}", row["reason"], row["where"])
    if found["held"]:
        out.print(held)
    total = sum(g["channels"] for g in found["groups"])
    out.print(f"{total} channels can be removed, in {len(found['groups'])} groups")


def _some(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def print_layers(
    out: Console, layers: Iterable[Mapping[str, Any]], totals: Mapping[str, Any]
) -> None:
    """The per-layer table of `graphopt inspect`, with its totals."""
    predicted = "predicted_ms" in totals
    head = [">predicted"] if predicted else []
    table = _table("layer", "op", "shape", ">params", ">MACs", ">activation", *head)
    for layer in layers:
        _add(
            table,
            layer["name"],
            layer["op"],
            shape(layer["shape"]),
            count(layer["parameters"]) if layer["parameters"] else "",
            count(layer["macs"]) if layer["macs"] else "",
            size(layer["activation_bytes"]),
            *([_worth_telling(layer["predicted_ms"])] if predicted else []),
        )
    out.print(table)
    if predicted:
        out.print(
            f"predicted: {milliseconds(totals['predicted_ms'])} in float32 on all cores that compute "
            "(peak and bandwidth of the board, and what kernels were counted to reach of the peak)"
        )
    out.print(
        f"{totals['nodes']} nodes, {count(totals['parameters'])} parameters, "
        f"{count(totals['macs'])} MACs ({2 * totals['macs'] / 1e9:.2f} GFLOPs), "
        f"{size(totals['weight_bytes'])} weights, {size(totals['activation_bytes'])} activations"
    )


def _worth_telling(ms: float) -> str:
    """Nothing for what takes less than 0.1 microseconds."""
    return milliseconds(ms) if ms >= 1e-4 else ""


def print_comparison(out: Console, report: Document) -> None:
    """Two models side by side."""
    a, b = report["a"], report["b"]
    table = _table("", f">{a['path']}", f">{b['path']}", ">change")
    for label, key, show in TOTALS:
        _add(table, label, show(a[key]), show(b[key]), change(a[key], b[key]))
    operators = dict.fromkeys([*a["operators"], *b["operators"]])
    for op in operators:
        have, want = a["operators"].get(op, 0), b["operators"].get(op, 0)
        _add(table, f"  {op}", str(have), str(want), "" if have == want else f"{want - have:+d}")
    out.print(table)
    out.print(_verified(report["verification"]), markup=False)
    if report["latency"]:
        out.print(_latency(report["latency"]), markup=False)


def print_rows(out: Console, columns: list[str], rows: Iterable[Iterable[str]]) -> None:
    """A plain table; a column whose name starts with '>' is right-aligned."""
    table = _table(*columns)
    for row in rows:
        _add(table, *row)
    out.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        header = Text(name.removeprefix(">"))
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    return table


def _add(table: Table, *cells: object, style: str = "") -> None:
    """Adds a row as plain text: a node may be called "[/b]", which is no markup."""
    table.add_row(*(Text(str(cell)) for cell in cells), style=style)


def _pass_row(row: Document) -> list[str]:
    def figure(key: str, show: Show) -> str:
        return moved(row["before"][key], row["after"][key], show)

    return [
        row["text"],
        figure("nodes", str),
        figure("parameters", count),
        figure("macs", count),
        figure("weight_bytes", size),
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
        else f"{error(row['error'])} ≤ {error(row['tolerance'])}"
    )


def _totals(before: Document, after: Document) -> Table:
    table = _table("", ">before", ">after", ">change")
    for label, key, show in TOTALS:
        _add(table, label, show(before[key]), show(after[key]), change(before[key], after[key]))
    return table


def _verified(verification: Document) -> str:
    if verification["executor"] is None:
        return "not verified: asked not to"
    if verification["error"] is None:
        proofs = "".join(f"; {p}" for p in verification.get("proofs", []))
        return f"runs in {verification['executor']}; its outputs were meant to change{proofs}"
    sign = "≤" if verification["error"] <= verification["tolerance"] else ">"
    word = "equal outputs" if sign == "≤" else "outputs differ"
    return (
        f"{word} in {verification['executor']} (its optimizations off): worst error "
        f"{error(verification['error'])} {sign} {error(verification['tolerance'])} over "
        f"{len(verification['samples'])} samples"
    )


def _latency(latency: Document) -> str:
    return (
        f"ONNX Runtime on this machine, {latency['threads']} threads: "
        f"{milliseconds(latency['before_ms'])} → {milliseconds(latency['after_ms'])}, "
        f"ratio {latency['ratio']:.2f} "
        f"(medians of {latency['runs']} runs in turn)"
    )
