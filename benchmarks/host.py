"""Compiled networks on this machine beside ONNX Runtime, in one run.

    python -m benchmarks.host [--only NAME] [--threads 1,2] [--seconds 5] [--json FILE] [--markdown FILE]

Networks of the zoo at their published sizes, optimized by graphopt for both; ONNX Runtime with all of
its own optimizations on top. Both take turns in blocks of runs, each alone on the machine's cores; the
ratio is the median of the ratios of neighbouring blocks. Above 1 graphopt is faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import as_markdown
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import save
from graphopt.pipeline import Pipeline
from graphopt.registry import LOWERING, default_passes, pass_class
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.deploy.bundle import make_bundle
from graphopt.runtime.native import NativeRunner
from graphopt.runtime.places.turns import in_turns, ratio
from graphopt.runtime.run import open_file
from graphopt.runtime.targets import target

NETWORKS = (
    *("wrn-16-2", "mobilenetv2", "mobilenetv3-large", "resnet50", "yolov3-tiny"),
    *("yolov3-mobilenetv3", "yolov3", "yolov4"),
)


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds; `ratio` is ONNX Runtime's time over ours."""

    network: str
    threads: int
    gmacs: float
    onnxruntime_ms: float
    graphopt_ms: float
    ratio: float
    error: float
    compile_s: float
    runs: int


def main() -> None:
    """Runs the comparison and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, per row")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args()
    rows = list(measured(args))
    print_rows(console(), HEAD, map(cells, rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(page(rows))


def measured(args: argparse.Namespace) -> Iterator[Row]:
    """One row per network and number of threads."""
    for name in (n for n in NETWORKS if args.only in n):
        with tempfile.TemporaryDirectory() as folder:
            yield from _network(name, Path(folder), args)


def _network(name: str, folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    from graphopt.zoo import export

    graph = normalize(export(name, dynamic_batch=False))
    graph = Pipeline(default_passes()).run(graph).graph
    model = folder / "model.onnx"
    save(graph, model)
    started = time.perf_counter()
    host = target("host")
    lowered = Pipeline([pass_class(n)() for n in LOWERING]).run(graph).graph
    compiled = compile_graph(lowered, host)
    bundle = folder / "bundle"
    make_bundle(compiled, bundle, name="bench")
    seconds = time.perf_counter() - started
    shape = tuple(graph.inputs[0].shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    feeds = {graph.inputs[0].name: x}
    macs = sum(s.macs for s in compiled.program.steps)
    for threads in map(int, args.threads.split(",")):
        row = _turns(name, threads, model, bundle, feeds, args.seconds)
        row = Row(**{**asdict(row), "gmacs": macs / 1e9, "compile_s": seconds})
        console().print(f"{name}, {threads} threads: {row.ratio:.2f}")
        yield row


def _turns(
    name: str, threads: int, model: Path, bundle: Path, feeds: dict[str, Any], seconds: float
) -> Row:
    openers = (
        lambda: open_file(model, optimized=True, threads=threads),
        lambda: _compiled(bundle, threads),
    )
    outputs = [opener().run(feeds) for opener in openers]
    error = max(
        float(np.abs(outputs[0][k] - outputs[1][k]).max() / np.abs(outputs[0][k]).max())
        for k in outputs[0]
    )
    theirs, ours = in_turns(openers, [feeds, feeds], seconds / 2)
    ms = (1e3 * theirs.median, 1e3 * ours.median)
    return Row(name, threads, 0.0, *ms, ratio(theirs, ours), error, 0.0, ours.runs)


def _compiled(bundle: Path, threads: int) -> NativeRunner:
    """The compiled network on so many threads, wherever the system puts them, as ONNX Runtime's."""
    return NativeRunner(bundle, threads=threads, cores=())


HEAD = [
    *("network", ">threads", ">GMACs", ">ONNX Runtime ms", ">graphopt ms", ">ratio"),
    *(">largest error", ">compile s"),
]


def cells(row: Row) -> list[str]:
    """A row of the table."""
    return [
        row.network,
        str(row.threads),
        f"{row.gmacs:.2f}",
        f"{row.onnxruntime_ms:.2f}",
        f"{row.graphopt_ms:.2f}",
        f"{row.ratio:.2f}",
        f"{row.error:.1e}",
        f"{row.compile_s:.0f}",
    ]


def page(rows: list[Row]) -> str:
    """The page of docs/."""
    return "\n".join(
        [
            "# Compiled networks on x86-64 beside ONNX Runtime",
            "",
            "`python -m benchmarks.host --markdown docs/host-benchmark.md` makes this page anew.",
            *(line for line in (__doc__ or "").split("\n\n")[2].splitlines()),
            "",
            as_markdown(HEAD, map(cells, rows)),
            "",
        ]
    )


if __name__ == "__main__":
    main()
