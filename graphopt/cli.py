"""The command line: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.errors import GraphoptError, UsageError, VerificationError

app = typer.Typer(
    name="graphopt",
    help="Makes trained vision networks smaller and faster, and proves that nothing else changed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help answers twice as fast
    pretty_exceptions_enable=False,
)
zoo_app = typer.Typer(
    help="Networks of the published systems, as ONNX files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(zoo_app, name="zoo")

_verbose = False

Model = Annotated[Path, typer.Argument(help="An ONNX file.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Shapes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this annotation at run time on Python 3.10
    typer.Option("--input-shape", metavar="NAME:1,3,416,416", help="Fix an input's shape."),
]
Names = Optional[list[str]]  # noqa: UP045


def _print_version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Tell more; show tracebacks.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose


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
    target = output or model.with_name(f"{model.stem}.opt.onnx")
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report} is a file; name a folder for the report")
    with _progress() as progress:
        run = optimize_file(
            model,
            target,
            passes=chosen,
            input_shapes=_shapes(input_shape or []),
            seed=seed,
            strict=strict,
            verify=verify,
            measure=measure,
            progress=progress,
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
    fix_shapes(graph, _shapes(input_shape or []))
    layers = [asdict(node_cost(n)) for n in graph.nodes]
    totals = asdict(cost_of(graph))
    if as_json:
        _print_json({"path": str(model), "opset": graph.opset, **totals, "layers": layers})
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

    with _progress() as progress:
        report = compare_files(a, b, seed=seed, progress=progress)
    if as_json:
        _print_json(report)
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
        _print_json(rows)
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


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """Lists the networks with their published sizes."""
    from dataclasses import asdict

    from graphopt.report.terminal import console, print_rows
    from graphopt.zoo import names, spec

    rows = [asdict(spec(n)) for n in names()]
    if as_json:
        _print_json(rows)
        return
    print_rows(
        console(),
        ["network", "task", "input", ">classes", ">params (M)", ">GFLOPs", "published by"],
        (_zoo_row(r) for r in rows),
    )


@zoo_app.command("export")
def zoo_export(
    name: Annotated[str, typer.Argument(help="A network of `graphopt zoo list`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the ONNX file.")],
    decode: Annotated[bool, typer.Option(help="Put the decoding of boxes into the graph.")] = False,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Trained weights: a state dict as .safetensors; seeded ones if not given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
    input_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Height and width in pixels."),
    ] = None,
) -> None:
    """Writes a network as an ONNX file, BatchNorm kept and parameter names as in torch."""
    from graphopt.frontends.normal_form import normalize
    from graphopt.frontends.onnx_file import save
    from graphopt.ir.cost import cost_of
    from graphopt.report.figures import count
    from graphopt.report.terminal import console
    from graphopt.zoo import export

    with _progress() as progress:
        progress(f"building and exporting {name}")
        model = export(name, decode=decode, weights=weights, seed=seed, input_size=input_size)
        graph = normalize(model)
        progress("writing")
        save(graph, output)
    cost = cost_of(graph)
    console().print(
        f"wrote {output}: {cost.nodes} nodes, {count(cost.parameters)} parameters, "
        f"{2 * cost.macs / 1e9:.1f} GFLOPs",
        markup=False,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code; errors are one line on stderr."""
    started_verbose = arguments if arguments is not None else sys.argv[1:]
    try:
        app(args=list(started_verbose), standalone_mode=True)
    except GraphoptError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except MemoryError:
        _fail("out of memory; the model is too large for this machine", 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (for example `| head`): nobody to tell
        raise SystemExit(0) from None
    except Exception as error:  # a bug of ours must still end in one line and a code
        _fail(f"internal error: {type(error).__name__}: {error} (run with -v for the traceback)", 1)


def _fail(reason: str, code: int) -> None:
    if _verbose:
        traceback.print_exc()
    line = " ".join(reason.split())
    print(f"FAILED: {line}", file=sys.stderr)  # noqa: T201 - the last line of a failed run
    raise SystemExit(code)


def _passes(text: str, pipeline: Path | None, skip: list[str], only: list[str]) -> list[Any]:
    from graphopt.registry import parse_passes, read_pipeline, select

    if pipeline is not None and text != "default":
        raise UsageError("give --passes or --pipeline, not both")
    chosen = parse_passes(text) if pipeline is None else read_pipeline(pipeline)
    return select(chosen, skip=skip, only=only)


def _shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        try:
            shape = [int(d) for d in dims.split(",")]
        except ValueError:
            shape = []
        if not colon or not name or not shape or min(shape) < 1:
            raise UsageError(f"--input-shape {text!r}: write NAME:1,3,416,416 with positive sizes")
        shapes[name] = shape
    return shapes


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal; with -v a line per step elsewhere; silence otherwise."""
    if not sys.stderr.isatty():
        from graphopt.pipeline import silent

        yield (lambda text: typer.echo(f"graphopt: {text}", err=True)) if _verbose else silent
        return
    from graphopt.report.terminal import console

    with console(stderr=True).status("starting") as status:
        yield lambda text: status.update(text)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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


def _zoo_row(row: dict[str, Any]) -> list[str]:
    shape = "×".join(str(d) for d in row["input_shape"])
    return [
        row["name"],
        row["task"],
        shape,
        str(row["classes"]),
        f"{row['params_millions']:.2f}",
        f"{row['gflops']:.2f}",
        row["source"],
    ]
