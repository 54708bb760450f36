"""Graph simplification side by side: graphopt and its peers on the same files, in one run.

    python -m benchmarks.simplify [--only NAME] [--size 224] [--seconds 1] [--json FILE]
    python -m benchmarks.simplify --load FILE --markdown docs/benchmarks.md

Per model and tool: nodes left (and how many are outside the standard domain), CPU seconds without
imports, ONNX Runtime latency as a ratio to the original (median of runs in turn, default
optimizations, below 1 is faster), worst output error with ONNX Runtime's optimizations off, and
whether the file is valid. The summary counts where each tool has the fewest nodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from benchmarks.markdown import as_markdown
from benchmarks.models import Case, cases
from benchmarks.peers import TOOLS
from graphopt.errors import GraphoptError
from graphopt.frontends.onnx_file import load
from graphopt.oracle import Oracle, errors_of
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.measure import compare_latency
from graphopt.runtime.run import OrtRunner, open_file

TIMEOUT_S = 600
WRONG = 1e-3


@dataclass(frozen=True)
class Result:
    """One tool on one model. `failure` is empty when the result is valid and right."""

    case: str
    yolo: bool
    tool: str
    nodes_before: int
    nodes: int | None = None
    foreign: int = 0
    cpu_s: float | None = None
    verify_cpu_s: float | None = None
    error: float | None = None
    latency_ratio: float | None = None
    failure: str = ""


def main() -> None:
    """Runs the comparison and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated")
    parser.add_argument("--size", type=int, default=224, help="pixels of the detectors' input")
    parser.add_argument("--seconds", type=float, default=1.0, help="per latency; 0 skips it")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--load", type=Path, nargs="+", help="show results of earlier --json files")
    parser.add_argument("--markdown", type=Path, help="write the tables as a page")
    options = parser.parse_args()
    results: list[Result] = []
    if options.load:
        results = [Result(**row) for file in options.load for row in json.loads(file.read_text())]
    else:
        for case in cases(size=options.size, only=options.only):
            rows = list(run_case(case, options.tools.split(","), options.seconds))
            results += rows
            show(rows)
    columns, rows = summary(results)
    print("\nAll models")
    print_rows(console(), columns, rows)
    for line in lost(results):
        print(line)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    if options.markdown:
        options.markdown.write_text(page(results), encoding="utf-8")


def run_case(case: Case, tools: list[str], seconds: float) -> Iterable[Result]:
    """Every tool on one model."""
    oracle = Oracle(load(case.path), reference=open_file(case.path))
    before = len(onnx.load(case.path, load_external_data=False).graph.node)
    for tool in tools:
        target = Path("out/bench") / f"{tool}.onnx"
        yield run_tool(case, tool, target, oracle, before, seconds)


def run_tool(
    case: Case, tool: str, target: Path, oracle: Oracle, before: int, seconds: float
) -> Result:
    """One tool on one model, in a process of its own."""
    base = {"case": case.name, "yolo": case.yolo, "tool": tool, "nodes_before": before}
    target.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.peers", tool, str(case.path), str(target)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Result(**base, failure=f"no end after {TIMEOUT_S} s")
    if done.returncode or not target.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Result(**base, failure=f"crashed: {last[:80]}")
    cost = json.loads(done.stdout.strip().splitlines()[-1])
    nodes = onnx.load(target).graph.node
    foreign = sum(n.domain not in ("", "ai.onnx") for n in nodes)
    base |= {"nodes": len(nodes), "foreign": foreign, **cost}
    try:
        onnx.checker.check_model(onnx.load(target)) if not foreign else None
        error = worst_error(oracle, open_file(target))
        if error > WRONG:
            return Result(**base, error=error, failure="wrong result")
        ratio = None
        if seconds:
            feeds = oracle.samples[0].feeds
            pair = compare_latency(
                case.path, target, feeds, threads=1, seconds=seconds, keep_open=True
            )
            ratio = pair.ratio
    except (GraphoptError, onnx.checker.ValidationError) as problem:
        return Result(**base, failure=f"invalid: {str(problem).splitlines()[0][:80]}")
    return Result(**base, error=error, latency_ratio=ratio)


def worst_error(oracle: Oracle, runner: OrtRunner) -> float:
    """The worst output error over the oracle's samples."""
    found = [errors_of(s.expected, runner.run(s.feeds)) for s in oracle.samples]
    return max(e for errors in found for e in errors.values())


def show(rows: list[Result]) -> None:
    """The table of one model."""
    print(f"\n{rows[0].case}: {rows[0].nodes_before} nodes")
    columns = [
        "tool",
        ">nodes",
        ">own ops",
        ">CPU s",
        ">verify CPU s",
        ">latency",
        ">error",
        "failure",
    ]
    print_rows(console(), columns, (_cells(r) for r in rows))


def _cells(r: Result) -> list[str]:
    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        r.tool,
        cell(r.nodes, "d"),
        str(r.foreign or ""),
        cell(r.cpu_s, ".2f"),
        cell(r.verify_cpu_s, ".2f"),
        cell(r.latency_ratio, ".2f"),
        cell(r.error, ".1e"),
        r.failure,
    ]


def summary(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """One row per tool over all models; nodes compare among files of standard operators only."""
    best = fewest(results)
    rows = []
    for tool in dict.fromkeys(r.tool for r in results):
        mine = [r for r in results if r.tool == tool]
        good = [r for r in mine if not r.failure]
        wins = sum(r.nodes == best[r.case] for r in good if not r.foreign)
        ratios = [r.latency_ratio for r in good if r.latency_ratio is not None]
        rows.append(
            [
                tool,
                f"{wins} of {len(mine)}",
                str(sum(r.nodes or 0 for r in good)),
                f"{statistics.median([r.cpu_s or 0 for r in good] or [0]):.2f}",
                f"{sum(r.cpu_s or 0 for r in good):.1f}",
                f"{statistics.geometric_mean(ratios):.3f}" if ratios else "",
                str(len(mine) - len(good)),
            ]
        )
    columns = ["tool", ">fewest nodes", ">nodes in total", ">median CPU s", ">total CPU s"]
    return [*columns, ">latency (geo. mean)", ">wrong, invalid or failed"], rows


def fewest(results: list[Result]) -> dict[str, int]:
    """The fewest nodes anyone reached on each model with a right and valid file."""
    best: dict[str, int] = {}
    for r in results:
        if r.nodes is not None and not r.foreign and not r.failure:
            best[r.case] = min(r.nodes, best.get(r.case, r.nodes))
    return best


def lost(results: list[Result]) -> Iterable[str]:
    """A line per model on which graphopt is not the one with the fewest nodes."""
    best = fewest(results)
    for r in results:
        if r.tool == "graphopt" and r.nodes is not None and r.nodes != best.get(r.case):
            winners = [w.tool for w in results if w.case == r.case and w.nodes == best.get(r.case)]
            yield f"more nodes than {', '.join(winners)} on {r.case}: {r.nodes} > {best.get(r.case)}"


def page(results: list[Result]) -> str:
    """The tables as Markdown, with the command that made them."""
    columns, rows = summary(results)
    tools = list(dict.fromkeys(r.tool for r in results))
    lines = [
        "# Graph simplification side by side",
        "",
        "`make bench` makes this page anew. Nodes left per model; a file that is wrong, invalid or",
        "missing is marked with its failure. `ort-extended` uses ONNX Runtime's own operators, so its",
        "count is in brackets. CPU seconds leave out imports and, for graphopt, the verification, which",
        "the run's own tables show apart. Latency is ONNX Runtime's at its default optimizations on one",
        "thread, in processor time, as a ratio to the original file.",
        "",
        as_markdown(columns, rows),
        "",
        as_markdown(
            ["model", ">before", *(f">{t}" for t in tools)], _nodes_per_case(results, tools)
        ),
        "",
    ]
    return "\n".join(lines)


def _nodes_per_case(results: list[Result], tools: list[str]) -> Iterable[list[str]]:
    best = fewest(results)
    for case in dict.fromkeys(r.case for r in results):
        mine = {r.tool: r for r in results if r.case == case}
        before = str(next(iter(mine.values())).nodes_before)
        yield [case, before, *(_node_cell(mine.get(t), best.get(case)) for t in tools)]


def _node_cell(r: Result | None, best: int | None) -> str:
    if r is None:
        return ""
    if r.failure:
        return r.failure.split(":")[0]
    if r.foreign:
        return f"({r.nodes})"
    return f"**{r.nodes}**" if r.nodes == best else str(r.nodes)


if __name__ == "__main__":
    main()
