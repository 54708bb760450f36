"""The commands about whole models: optimize, inspect, compare, passes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import (
    File,
    Json,
    Measure,
    Model,
    Names,
    Report,
    Shapes,
    Telling,
    Text,
    checked_report,
    finish,
    print_json,
    progress,
    shapes,
)
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
    recover: Annotated[
        Text,
        typer.Option(
            metavar="epochs=5,...",
            help="Train what --prune left on --data, without labels; takes the options of "
            "`graphopt passes recover` and of training (lr, batch, ...).",
        ),
    ] = None,
    rounds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="--prune and --recover in so many steps, each followed by training."
        ),
    ] = None,
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0,
            help="Stop before the round (4 if not said) that loses more points of AP or top-1 "
            "on --labels.",
        ),
    ] = None,
    labels: Annotated[
        Text, typer.Option(metavar="KIND:WHERE", help="Labelled images for --max-drop.")
    ] = None,
    quantize: Annotated[
        Text,
        typer.Option(
            metavar="int8,...",
            help="Round to integers last; takes repair=a|b and the options of `graphopt passes "
            "insert-fake-quant`.",
        ),
    ] = None,
    data: Annotated[
        File,
        typer.Option(
            help="Images for --prune, --recover and --quantize: a folder, a .txt list, .npy or .npz."
        ),
    ] = None,
    preprocess: Annotated[
        Text, typer.Option(help="How images become inputs, e.g. yolo or 'stretch, bgr, scale=1'.")
    ] = None,
    folder: Annotated[
        File, typer.Option(help="Checkpoints of --recover; an interrupted run there goes on.")
    ] = None,
    skip: Annotated[Names, typer.Option(help="Leave out a pass (name or glob).")] = None,
    only: Annotated[Names, typer.Option(help="Run only these passes (name or glob).")] = None,
    input_shape: Shapes = None,
    report: Report = None,
    as_json: Json = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop when a pass breaks its contract.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the test inputs and of passes that draw.")
    ] = 0,
    verify: Annotated[bool, typer.Option(help="Prove that the outputs are equal.")] = True,
    measure: Measure = True,
    board: Annotated[
        Text,
        typer.Option(
            "--target", help="Compile the result for a board too, beside it: MODEL.opt.TARGET."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle of --target that is there.")
    ] = False,
) -> None:
    """Optimizes MODEL; the result is written only when its outputs are proven equal."""
    from graphopt.optimize import optimize_file

    started = time.perf_counter()
    target = output or model.with_name(f"{model.stem}.opt.onnx")
    checked_report(report)
    place = _place_for(target, board, force=force)
    with progress() as telling:
        images = None if data is None else {"data": str(data), "preprocess": preprocess or ""}
        if images is not None and not (prune or recover or quantize):
            raise UsageError(
                "--data is for --prune, --recover and --quantize; without them no pass needs images"
            )
        chosen = [
            *_changes(
                prune, recover, images, folder, telling, _by_rounds(rounds, max_drop, labels)
            ),
            *_passes(passes, pipeline, skip or [], only or []),
            *_quantizing(quantize, images),
        ]
        run = optimize_file(
            model,
            target,
            passes=chosen,
            input_shapes=shapes(input_shape or []),
            seed=seed,
            strict=strict or prune is not None or quantize is not None,
            verify=verify,
            measure=measure,
            progress=telling,
        )
        if place is not None:
            from graphopt.optimize_for import compiled_for

            run = compiled_for(
                run,
                model,
                target,
                *place,
                input_shapes=shapes(input_shape or []),
                measure=measure,
                replace=force,
                progress=telling,
            )
    more = [] if place is None else [f"wrote {place[0]}"]
    finish(run, target, report, started, as_json=as_json, more=more)


@app.command()
def inspect(
    model: Model,
    input_shape: Shapes = None,
    board: Annotated[
        Text, typer.Option("--target", help="Predict what every layer takes on a board, too.")
    ] = None,
    as_json: Json = False,
) -> None:
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
    if board is not None:
        from graphopt.runtime.efficiency import node_seconds
        from graphopt.runtime.targets import target

        for layer, node in zip(layers, graph.nodes, strict=True):
            layer["predicted_ms"] = 1e3 * node_seconds(target(board), node)
        totals["predicted_ms"] = sum(layer["predicted_ms"] for layer in layers)
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


def _place_for(target: Path, board: str | None, *, force: bool) -> tuple[Path, Any] | None:
    """(the bundle's folder, the board), refused before hours of work."""
    if board is None:
        if force:
            raise UsageError("--force is for the bundle of --target, and there is no --target")
        return None
    from graphopt.runtime.deploy.bundle import check_place
    from graphopt.runtime.targets import target as named
    from graphopt.runtime.toolchain.find import toolchain_for

    found = named(board)
    toolchain_for(found)
    folder = target.with_name(f"{target.stem}.{found.name}")
    check_place(folder, replace=force)
    return folder, found


def _changes(
    prune: str | None,
    recover: str | None,
    images: dict[str, str] | None,
    folder: Path | None,
    telling: Telling,
    rounds: dict[str, Any],
) -> list[Any]:
    """The passes that come first: preparation, pruning, recovery."""
    if rounds and (prune is None or recover is None):
        raise UsageError("--rounds and --max-drop are for --prune with --recover: give both")
    if prune is None and recover is None:
        return []
    if prune is None:
        raise UsageError("--recover makes up for --prune: give both, or use `graphopt distill`")
    if recover is not None and images is None:
        raise UsageError("--recover trains on images: give --data FOLDER (no labels needed)")
    from graphopt.distill import BEFORE_TRAINING, recovering
    from graphopt.named import read_options
    from graphopt.prune import PREPARATION, pruning
    from graphopt.registry import parse_passes, pass_class

    wanted = {**(images or {}), **read_options(prune, "prune")}
    if recover is not None:
        wanted = {**BEFORE_TRAINING, **wanted}
    found = parse_passes(PREPARATION)
    more = {**(images or {}), "folder": str(folder) if folder else "", "watch": telling.watch()}
    if rounds and recover is not None:
        chosen = {k: v for k, v in wanted.items() if k not in (images or {})}
        both = {"prune": " ".join(f"{k}={v}" for k, v in chosen.items()), "recover": recover}
        return [*found, pass_class("prune-recover").with_options({**more, **both, **rounds})]
    found.append(pruning(**wanted))
    return found if recover is None else [*found, recovering(recover, **more)]


def _by_rounds(rounds: int | None, max_drop: float | None, labels: str | None) -> dict[str, Any]:
    """Options of the pass `prune-recover`; none when one round is wanted and nobody judges."""
    if (max_drop is None) != (labels is None):
        raise UsageError("--max-drop is measured on --labels KIND:WHERE: give both")
    if rounds is None and max_drop is None:
        return {}
    wanted = {"rounds": rounds, "max_drop": max_drop, "judge": labels}
    return {k: v for k, v in wanted.items() if v is not None}


def _quantizing(wanted: str | None, images: dict[str, str] | None) -> list[Any]:
    """The passes that come last."""
    if wanted is None:
        return []
    if images is None:
        raise UsageError("--quantize calibrates on images: give --data FOLDER (no labels needed)")
    from graphopt.named import read_options
    from graphopt.quantize import quantizing

    kind, _, more = wanted.partition(",")
    if "=" in kind:
        raise UsageError(
            f"--quantize {wanted!r}: say the type of weights first, as in int8,{wanted}"
        )
    options: dict[str, Any] = {"weight": kind, **read_options(more, "quantize")}
    return quantizing(images["data"], preprocess=images["preprocess"], **options)


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
