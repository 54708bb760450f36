"""The commands about whole models: optimize, inspect, compare, passes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import File, Json, Model, Names, Shapes, Text, print_json, progress, shapes
from graphopt.errors import UsageError, VerificationError

app = typer.Typer()


@app.command()
def optimize(
    model: Model,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o", "--output", help="Where to write; MODEL.opt.onnx beside it if not given."
        ),
    ] = None,
    passes: Annotated[
        str,
        typer.Option(help="Passes in order: 'simplify,fuse-conv-bn'; 'default' is all of them."),
    ] = "default",
    pipeline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A TOML file with [[pass]] tables."),
    ] = None,
    prune: Annotated[
        Text,
        typer.Option(
            metavar="macs=0.5,...",
            help="Remove channels first; takes the options of `graphopt passes prune`.",
        ),
    ] = None,
    data: Annotated[File, typer.Option(help="Calibration images for --prune.")] = None,
    skip: Annotated[Names, typer.Option(help="Leave out a pass (name or glob).")] = None,
    only: Annotated[Names, typer.Option(help="Run only these passes (name or glob).")] = None,
    input_shape: Shapes = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write report.json and report.html into this folder."),
    ] = None,
    as_json: Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop when a pass breaks its contract.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the test inputs and of passes that draw.")
    ] = 0,
    verify: Annotated[bool, typer.Option(help="Prove that the outputs are equal.")] = True,
    measure: Annotated[bool, typer.Option(help="Time both models in ONNX Runtime.")] = True,
) -> None:
    """Optimizes MODEL; the result is written only when its outputs are proven equal."""
    from graphopt.optimize import optimize_file
    from graphopt.report.document import document, to_json
    from graphopt.report.terminal import console, print_optimized

    started = time.perf_counter()
    chosen = _passes(passes, pipeline, skip or [], only or [])
    if prune is not None:
        chosen = _pruning_first(prune, data) + chosen
    elif data is not None:
        raise UsageError("--data is for --prune; without it no pass needs images")
    target = output or model.with_name(f"{model.stem}.opt.onnx")
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report} is a file; name a folder for the report")
    with progress() as telling:
        run = optimize_file(
            model,
            target,
            passes=chosen,
            input_shapes=shapes(input_shape or []),
            seed=seed,
            strict=strict or prune is not None,
            verify=verify,
            measure=measure,
            progress=telling,
        )
    content = document(run)
    if report is not None:
        from graphopt.report.html import write_report

        page = write_report(content, report)
    if as_json:
        sys.stdout.write(to_json(content))
        return
    out = console()
    print_optimized(out, content)
    out.print(f"wrote {target}", markup=False)
    if report is not None:
        out.print(f"report: {page}", markup=False)
    out.print(f"PASSED in {time.perf_counter() - started:.1f} s")


@app.command()
def inspect(model: Model, input_shape: Shapes = None, as_json: Json = False) -> None:
    """Shows what every layer of MODEL costs: parameters, MACs, activation bytes."""
    from dataclasses import asdict

    from graphopt.frontends.onnx_file import load
    from graphopt.ir.cost import cost_of, node_cost
    from graphopt.optimize import fix_shapes
    from graphopt.report.terminal import console, print_layers

    graph = load(model)
    fix_shapes(graph, shapes(input_shape or []))
    layers = [asdict(node_cost(n)) for n in graph.nodes]
    totals = asdict(cost_of(graph))
    if as_json:
        print_json({"path": str(model), "opset": graph.opset, **totals, "layers": layers})
        return
    print_layers(console(), layers, totals)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="An ONNX file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another, with the same inputs.", metavar="B")],
    as_json: Json = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the test inputs.")] = 0,
) -> None:
    """Compares two models: operators, cost, outputs and ONNX Runtime latency. Exit 3: outputs differ."""
    from graphopt.compare import compare_files
    from graphopt.report.terminal import console, print_comparison

    with progress() as telling:
        report = compare_files(a, b, seed=seed, progress=telling)
    if as_json:
        print_json(report)
    else:
        print_comparison(console(), report)
    if not report["verification"]["passed"]:
        found = report["verification"]
        worst = (
            f"error {found['error']:.2g} > {found['tolerance']:.2g} at output {found['output']!r}"
        )
        raise VerificationError(f"the outputs of {a} and {b} differ: {worst}")


@app.command()
def passes(
    name: Annotated[Optional[str], typer.Argument(help="Show one pass in full.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Lists the passes with what they promise and their options."""
    from graphopt.registry import DEFAULT, PASSES, pass_class
    from graphopt.report.terminal import console, print_rows

    classes = [pass_class(n) for n in ([name] if name else PASSES)]
    rows: list[dict[str, Any]] = [
        {
            "name": c.name,
            "summary": c.summary(),
            "numerics": str(c.numerics),
            "options": c().options(),
            "in_default_pipeline": c.name in DEFAULT,
        }
        for c in classes
    ]
    if as_json:
        print_json(rows)
        return
    if name:
        _print_pass(classes[0], rows[0])
        return
    print_rows(
        console(),
        ["pass", "promise", "default", "what it does"],
        (
            [r["name"], r["numerics"], "yes" if r["in_default_pipeline"] else "", r["summary"]]
            for r in rows
        ),
    )


def _pruning_first(options: str, data: Path | None) -> list[Any]:
    """The passes that prepare for pruning, and pruning."""
    from graphopt.prune import PREPARATION
    from graphopt.registry import parse_passes

    images = "" if data is None else f" data={data}"
    return parse_passes(f"{PREPARATION}, prune{{{options}{images}}}")


def _passes(text: str, pipeline: Path | None, skip: list[str], only: list[str]) -> list[Any]:
    from graphopt.registry import parse_passes, read_pipeline, select

    if pipeline is not None and text != "default":
        raise UsageError("give --passes or --pipeline, not both")
    chosen = parse_passes(text) if pipeline is None else read_pipeline(pipeline)
    return select(chosen, skip=skip, only=only)


def _print_pass(each: Any, row: dict[str, Any]) -> None:
    import inspect as python_inspect

    module = python_inspect.getmodule(each)
    text = python_inspect.cleandoc((module.__doc__ if module else None) or each.__doc__ or "")
    typer.echo(f"{row['name']}: {row['numerics']}\n\n{text}\n")
    for key, value in row["options"].items():
        typer.echo(f"  {key} = {value}")
    for word, names in (("before", each.before), ("after", each.after)):
        for other, reason in names.items():
            typer.echo(f"  runs {word} {other}: {reason}")
