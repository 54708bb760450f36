"""Tables of what compiled networks take, on a board, an emulated core or this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphopt.report.figures import error

Document = Mapping[str, Any]
Cells = tuple[list[str], list[list[str]]]

_TIMED = ("median ms", "least ms", "runs", "threads")
_COUNTED = ("M instructions", "M cycles", "of the limit")


def engines(bench: Document) -> Cells:
    """(head, rows): a row for every engine on every model."""
    counted = _is_counted(bench)
    head = ["model", "engine", *(_COUNTED if counted else _TIMED), "speed", "error"]
    figures = _counted if counted else _timed
    return head, [
        [
            row["model"],
            row["engine"],
            *figures(row),
            "" if row["speed"] is None else f"{row['speed']:.2f}",
            "" if row["error"] is None else error(row["error"]),
        ]
        for row in bench["rows"]
    ]


def layers(row: Document) -> Cells:
    """(head, rows): a row for every layer of one of the rows."""
    every: Sequence[Document] = row["figures"]["layers"]
    if "ms" in every[0]:
        whole = sum(v["ms"] for v in every) or 1.0
        return ["layer", "ms", "share", "MMAC"], [
            [v["name"], f"{v['ms']:.4f}", f"{v['ms'] / whole:.1%}", _millions(v["macs"])]
            for v in every
        ]
    whole = row["cycles"] or 1.0
    return ["layer", *_COUNTED[:2], "share", "of the limit", "MMAC"], [
        [
            v["name"],
            f"{v['instructions'] / 1e6:.3f}",
            *(["", "", ""] if v["cycles"] is None else _cycles(v["cycles"], v["limit"], whole)),
            _millions(v["macs"]),
        ]
        for v in every
    ]


def remarks(bench: Document) -> Iterator[str]:
    """What has to be known to read the figures."""
    if _is_counted(bench):
        figures = bench["rows"][0]["figures"]
        yield (
            f"one {figures['core']}, one thread, all data in its first cache: estimates for comparing "
            f"programs, no times on a board (cycles: {figures['estimator']})"
        )
        yield "the limit is one multiply-accumulate of the direct algorithm after another"
    elif bench["place"] == "host":
        yield "engines took turns, each alone on the machine; speed is against the first row"
    for row in bench["rows"]:
        if row["note"] and row["engine"] == "graphopt":
            yield f"note: {row['model']}: {row['note']}"


def _is_counted(bench: Document) -> bool:
    return "estimator" in bench["rows"][0]["figures"]


def _timed(row: Document) -> list[str]:
    times = row["figures"]
    return [
        f"{times['median']:.3f}",
        f"{times['least']:.3f}",
        str(times["runs"]),
        str(times["threads"]),
    ]


def _counted(row: Document) -> list[str]:
    cycles = limit = ""
    if row["cycles"]:
        cycles, limit = f"{row['cycles'] / 1e6:.2f}", f"{row['limit'] / row['cycles']:.0%}"
    return [f"{row['instructions'] / 1e6:.2f}", cycles, limit]


def _cycles(cycles: float, limit: float, whole: float) -> list[str]:
    share = f"{limit / cycles:.0%}" if limit and cycles else ""
    return [f"{cycles / 1e6:.3f}", f"{cycles / whole:.1%}", share]


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.2f}" if macs else ""
