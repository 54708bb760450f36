from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from graphopt.report.figures import change, count, error, milliseconds, moved, shape, size
from graphopt.report.terminal import (
    print_bench,
    print_comparison,
    print_layers,
    print_optimized,
    print_rows,
)

HOSTILE = "[/red]a[bold]b"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (1234, "1.23 k"),
        (999_499, "999 k"),
        (999_700, "1 M"),
        (61_949_149, "61.9 M"),
        (2_782_480_896, "2.78 G"),
        (12_345_000_000_000, "12345 G"),
    ],
)
def test_counts_have_three_digits_and_a_unit(value: int, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (896, "896 B"), (1310, "1.31 kB"), (247_900_000, "248 MB"), (1.9e9, "1.9 GB")],
)
def test_sizes_have_three_digits_and_a_decimal_unit(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (0.00714, "7.14 µs"), (33.0009, "33 ms"), (999.7, "1 s"), (3322.8, "3.32 s")],
)
def test_times_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (5, 5, ""),
        (0, 0, ""),
        (169, 56, "-66.9 %"),
        (100, 101, "+1.0 %"),
        (8_858_752, 8_860_442, "≈ 0 %"),
        (8_860_442, 8_858_752, "≈ 0 %"),
        (0, 3, "+3"),
        (3, 0, "-100.0 %"),
    ],
)
def test_changes_are_relative_and_signed(before: int, after: int, text: str) -> None:
    assert change(before, after) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (5000, 5000, "5 k"),
        (5000, 6000, "5 k → 6 k"),
        (8_858_752, 8_860_442, "8.86 M (+1.69 k)"),
        (8_860_442, 8_858_752, "8.86 M (-1.69 k)"),
    ],
)
def test_a_moved_figure_never_reads_the_same_twice(before: int, after: int, text: str) -> None:
    assert moved(before, after, count) == text


def test_errors_and_shapes() -> None:
    assert [error(0.0), error(2.14e-5), error(float("inf"))] == ["0", "2.1e-05", "inf"]
    assert [shape(None), shape([]), shape(["n", 3, None])] == ["?", "", "n×3×?"]


def totals(path: str, nodes: int) -> dict[str, Any]:
    return {
        "path": path,
        "file_bytes": 35_459_726,
        "nodes": nodes,
        "parameters": 8_858_752,
        "macs": 2_782_480_896,
        "weight_bytes": 1000 * nodes,
        "activation_bytes": 85_901_152,
        "operators": {"Conv": 13, HOSTILE: nodes},
    }


VERIFICATION = {"executor": "onnxruntime", "samples": ["a", "b"], "error": 2e-5, "tolerance": 1e-4}
LATENCY = {"before_ms": 51.8, "after_ms": 33.04, "ratio": 0.823, "runs": 37, "threads": 2}


def report(**other: Any) -> dict[str, Any]:
    row = {
        "text": HOSTILE,
        "status": "verified",
        "detail": "",
        "error": 1.5e-4,
        "tolerance": 8.3e-4,
        "before": totals("a", 169),
        "after": totals("b", 56),
        "rewrites": [{}] * 11,
        "refusals": [{}] * 7,
        "ms": 42.7,
    }
    return {
        "passes": [row, {**row, "text": "mine", "status": "rolled-back", "after": row["before"]}],
        "before": totals("a.onnx", 169),
        "after": totals("b.onnx", 56),
        "verification": VERIFICATION,
        "latency": LATENCY,
        "bench": None,
        "notes": [f"look at {HOSTILE}"],
        **other,
    }


def printed(call: Any, *arguments: Any) -> list[str]:
    """The lines a function prints, with single spaces."""
    out = Console(file=io.StringIO(), width=160, highlight=False)
    call(out, *arguments)
    assert isinstance(out.file, io.StringIO)
    return [" ".join(line.split()) for line in out.file.getvalue().splitlines()]


def test_a_run_is_told_pass_by_pass_and_in_total() -> None:
    lines = printed(print_optimized, report())
    assert f"{HOSTILE} 169 → 56 8.86 M 2.78 G 169 kB → 56 kB 11 7 43 1.5e-04 ≤ 8.3e-04" in lines
    assert any(li.startswith("mine 169 8.86 M") and li.endswith("rolled-back") for li in lines)
    assert "nodes 169 56 -66.9 %" in lines
    assert "parameters 8.86 M 8.86 M" in lines
    assert (
        "equal outputs in onnxruntime (its optimizations off): worst error 2.0e-05 ≤ 1.0e-04 "
        "over 2 samples"
    ) in lines
    assert (
        "ONNX Runtime on this machine, 2 threads: 51.8 ms → 33 ms, ratio 0.82 "
        "(medians of 37 runs in turn)"
    ) in lines
    assert f"note: look at {HOSTILE}" in lines


@pytest.mark.parametrize(
    ("verification", "text"),
    [
        ({"executor": None}, "not verified: asked not to"),
        ({"error": None}, "runs in onnxruntime; its outputs were meant to change"),
        (
            {"error": 0.5},
            "outputs differ in onnxruntime (its optimizations off): worst error 5.0e-01 > 1.0e-04",
        ),
    ],
)
def test_what_is_not_proven_is_not_called_equal(verification: dict[str, Any], text: str) -> None:
    lines = printed(print_optimized, report(verification={**VERIFICATION, **verification}))
    assert any(line.startswith(text) for line in lines)
    assert not any("equal outputs" in line for line in lines)


def test_no_latency_is_printed_that_was_not_measured() -> None:
    assert not any("ratio" in line for line in printed(print_optimized, report(latency=None)))


def test_layers_are_told_with_their_totals() -> None:
    layers = [
        {
            "name": HOSTILE,
            "op": "Conv",
            "shape": ["batch", 16, None],
            "parameters": 448,
            "macs": 74_760_192,
            "activation_bytes": 11_075_584,
        },
        {
            "name": "relu",
            "op": "Relu",
            "shape": None,
            "parameters": 0,
            "macs": 0,
            "activation_bytes": 8,
        },
    ]
    lines = printed(print_layers, layers, totals("a", 2))
    assert f"{HOSTILE} Conv batch×16×? 448 74.8 M 11.1 MB" in lines
    assert "relu Relu ? 8 B" in lines
    assert lines[-1] == (
        "2 nodes, 8.86 M parameters, 2.78 G MACs (5.56 GFLOPs), 2 kB weights, 85.9 MB activations"
    )


def test_two_models_are_told_side_by_side() -> None:
    content = {"a": totals("a[/b].onnx", 169), "b": totals("b.onnx", 56)}
    lines = printed(print_comparison, {**content, "verification": VERIFICATION, "latency": LATENCY})
    assert lines[0] == "a[/b].onnx b.onnx change"
    assert "nodes 169 56 -66.9 %" in lines
    assert "Conv 13 13" in lines
    assert f"{HOSTILE} 169 56 -113" in lines
    assert any(line.startswith("equal outputs") for line in lines)
    assert any("ratio 0.82" in line for line in lines)


def test_rows_are_plain_text() -> None:
    assert printed(print_rows, ["name", ">size"], [[HOSTILE, "3"]]) == ["name size", f"{HOSTILE} 3"]


ROW = {"note": "", "error": None, "speed": None}
LAYER = {"name": "conv 1", "macs": 2_000_000}


def test_what_was_timed_side_by_side() -> None:
    times = {
        "median": 2.5,
        "least": 2.25,
        "runs": 40,
        "threads": 2,
        "layers": [LAYER | {"ms": 0.5}],
    }
    first = {**ROW, "model": "a.onnx", "engine": "ONNX Runtime", "figures": {**times, "layers": []}}
    second = {**ROW, "model": "a.onnx", "engine": "graphopt", "figures": times}
    second |= {"speed": 1.25, "error": 3e-7, "note": "compiled in float32"}
    lines = printed(print_bench, {"place": "host", "rows": [first, second]})
    assert any("2.500" in v and "1.25" in v and "3.0e-07" in v for v in lines)
    assert lines[-1].strip() == "note: a.onnx: compiled in float32"
    assert not any("conv 1" in v for v in lines)
    every = {"place": "host", "rows": [second]}
    assert any(
        "conv 1" in v and "100.0%" in v
        for v in printed(partial(print_bench, each_layer=True), every)
    )


def test_what_was_counted_is_no_time() -> None:
    counted = LAYER | {"instructions": 3_000_000, "cycles": 1_000_000.0, "limit": 500_000.0}
    figures = {"core": "cortex-a57", "estimator": "llvm-mca", "layers": [counted]}
    row = {**ROW, "model": "a", "engine": "graphopt", "figures": figures}
    row |= {"instructions": 3_000_000, "cycles": 1_000_000.0, "limit": 500_000.0}
    lines = printed(partial(print_bench, each_layer=True), {"place": "tx2@emulated", "rows": [row]})
    assert any("3.00" in v and "1.00" in v and "50%" in v for v in lines)
    assert any("no times on a board" in v for v in lines)
    assert not any(" ms" in v for v in lines)
    unknown = {
        **row,
        "cycles": None,
        "figures": {**figures, "layers": [counted | {"cycles": None}]},
    }
    lines = printed(partial(print_bench, each_layer=True), {"place": "x", "rows": [unknown]})
    assert not any("50%" in v for v in lines)
