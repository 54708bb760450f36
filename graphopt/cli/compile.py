"""graphopt compile, run and bench: a network as native code for a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import File, Json, Model, Names, Text, print_json, progress
from graphopt.errors import UsageError

app = typer.Typer()

_ENDINGS = {"bundle": "", "tvm": ".so", "onnx": ".onnx"}
Precision = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="float32 or float16; what suits the board best if not given."),
]


@app.command("compile")
def compile_(
    model: Model,
    board: Annotated[
        str, typer.Option("--target", help="A board of `graphopt targets`, host, or a .toml file.")
    ],
    output: Annotated[
        File,
        typer.Option(
            "-o", "--output", help="What is written; MODEL.TARGET (.so, .onnx) if not given."
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="bundle: C library, header, runner. tvm: one library for TVM's runtime. onnx: a file "
            "for whoever reads ONNX there.",
        ),
    ] = "bundle",
    abi: Annotated[
        Text,
        typer.Option(
            help="What programs link against there; the board's first if not given; host for a GPU here."
        ),
    ] = None,
    size: Annotated[
        Names, typer.Option(metavar="NAME=640", help="A number for a named dimension of an input.")
    ] = None,
    precision: Precision = None,
    optimize: Annotated[bool, typer.Option(help="Run the default passes first.")] = True,
    toolchain: Annotated[
        Text, typer.Option(help="zig, gcc, ndk or cc; the first that serves if not given.")
    ] = None,
    verify: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            help="Run the bundle and compare with ONNX Runtime, even if it takes an emulator long."
        ),
    ] = None,
    tune: Annotated[
        Text,
        typer.Option(
            metavar="PLACE",
            help="Measure ways to compute each convolution, and take the fastest: host, emulated or "
            "rpc:ADDRESS:PORT. Remembered.",
        ),
    ] = None,
    transformed: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--transformed-weights",
            min=0,
            metavar="MB",
            help="The most memory for weights that are transformed when the network is loaded; as "
            "much as is fast if not given.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Compiles MODEL to a self-contained C library and a program that runs it on the board."""
    from graphopt.runtime.targets import target

    chosen = target(board)
    if form not in _ENDINGS:
        raise UsageError(f"--format {form!r} is not one of {', '.join(_ENDINGS)}")
    place = output or model.with_name(f"{model.stem}.{chosen.name}{_ENDINGS[form]}")
    if form == "onnx":
        if abi or toolchain or tune or verify is not None or transformed is not None:
            raise UsageError(
                "--abi, --toolchain, --tune, --verify and --transformed-weights are for code, not for "
                "--format onnx"
            )
        _export(model, place, chosen, size or [], precision, optimize, force, as_json)
        return
    from graphopt.compile import compile_file

    with progress() as telling:
        made = compile_file(
            model,
            place,
            target=chosen,
            form=form,
            abi=abi,
            sizes=_sizes(size or []),
            precision=precision,
            optimize=optimize,
            toolchain=toolchain,
            verify=verify,
            tune_at=_tune_at(tune, chosen),
            lasting=None if transformed is None else round(transformed * 1e6),
            replace=force,
            progress=telling,
        )
    if as_json:
        print_json(_document(made))
    else:
        _print(made)


@app.command()
def run(
    what: Annotated[
        Path, typer.Argument(help="A bundle, or an ONNX file.", metavar="BUNDLE_OR_MODEL")
    ],
    given: Annotated[
        Names,
        typer.Option(
            "--input", metavar="[NAME=]x.npy", help="An input; what is not given is drawn."
        ),
    ] = None,
    wanted: Annotated[
        Names, typer.Option("--output", metavar="[NAME=]y.npy", help="Where to write an output.")
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=256, help="How many compute."),
    ] = None,
    iters: Annotated[int, typer.Option(min=1, help="Timed runs, after one that is not.")] = 1,
    profile: Annotated[bool, typer.Option("--profile", help="Show what each layer takes.")] = False,
    as_json: Json = False,
) -> None:
    """Runs a bundle (in an emulator where it is for another machine) or a model (in ONNX Runtime)."""
    from graphopt.run import run_path

    found = run_path(what, given or [], wanted or [], threads=threads, iters=iters, profile=profile)
    if as_json:
        print_json(found)
    else:
        _print_run(found)


@app.command("bench")
def bench_(
    subjects: Annotated[
        list[Path], typer.Argument(help="ONNX files and bundles.", metavar="MODEL_OR_BUNDLE...")
    ],
    where: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="PLACE",
            help="host; BOARD@emulated; BOARD@ssh:USER@ADDRESS; BOARD@rpc:ADDRESS:PORT.",
        ),
    ] = "host",
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer too.")] = False,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, max=256, help="How many compute; an emulated core is one."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Of measuring each engine on this machine.")
    ] = 5.0,
    iters: Annotated[int, typer.Option(min=1, help="Timed runs on a board.")] = 50,
    size: Annotated[
        Names, typer.Option(metavar="NAME=640", help="A number for a named dimension of an input.")
    ] = None,
    precision: Precision = None,
    abi: Annotated[Text, typer.Option(help="As for graphopt compile.")] = None,
    toolchain: Annotated[Text, typer.Option(help="As for graphopt compile.")] = None,
    as_json: Json = False,
) -> None:
    """Measures compiled models and bundles side by side, on this machine beside ONNX Runtime."""
    from graphopt.bench import Options, bench, document
    from graphopt.report.terminal import console, print_bench
    from graphopt.runtime.places.place import read_place

    place = read_place(where)
    options = Options(
        abi=abi,
        precision=precision,
        toolchain=toolchain,
        sizes=_sizes(size or []),
        threads=threads,
        seconds=seconds,
        iters=iters,
    )
    with progress() as telling:
        rows = bench(subjects, place, options, progress=telling)
    found = document(place, rows)
    if as_json:
        print_json(found)
    else:
        print_bench(console(), found, each_layer=layers)


def _export(
    model: Path,
    output: Path,
    board: Any,
    size: list[str],
    precision: str | None,
    optimize: bool,
    force: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from graphopt.export_onnx import export_onnx

    with progress() as telling:
        made = export_onnx(
            model,
            output,
            target=board,
            sizes=_sizes(size),
            precision=precision,
            optimize=optimize,
            replace=force,
            progress=telling,
        )
    if as_json:
        print_json({**asdict(made), "path": str(made.path), "bytes": made.size})
        return
    from graphopt.report.figures import error
    from graphopt.report.figures import size as bytes_
    from graphopt.report.terminal import console

    what = f"opset {made.opset}, {made.nodes} nodes, {made.precision}, {bytes_(made.size)}"
    out = console()
    for line in (
        f"for {made.target}, to be read by {made.reader}: {what}",
        f"equal to ONNX Runtime: worst error {error(made.error)} ≤ {error(made.tolerance)}",
        *(f"note: {n}" for n in made.notes),
        f"wrote {made.path}",
        f"PASSED in {made.seconds:.1f} s",
    ):
        out.print(line, markup=False)


def _tune_at(text: str | None, board: Any) -> Any:
    """The place to tune at; None where nothing is tuned."""
    if text is None:
        return None
    from graphopt.runtime.places.place import Place, read_way

    if (text == "host") != (board.name == "host"):
        there = "host" if board.name == "host" else "emulated or rpc:ADDRESS:PORT"
        raise UsageError(f"--tune {text}: for {board.name} it is --tune {there}")
    if text == "host":
        return Place(board, "host")
    kind, address = read_way(text)
    return Place(board, kind, address)


def _sizes(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not equals or not name or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--size {text!r}: write NAME=640 with a positive number")
        found[name] = int(number)
    return found


def _document(made: Any) -> dict[str, Any]:
    return {
        "path": str(made.path),
        "bytes": made.size,
        "error": made.error,
        "tolerance": made.tolerance,
        "unverified": made.unverified,
        "notes": list(made.notes),
        "seconds": dict(made.seconds),
        "manifest": dict(made.manifest),
    }


def _print(made: Any) -> None:
    from graphopt.report.figures import count, error, size
    from graphopt.report.terminal import console, print_rows

    found = made.manifest
    memory = found["memory"]
    above = memory["arena"] / max(1, memory["arena_lower_bound"]) - 1
    rows = [
        ("target", f"{found['target']}: {found['board']}; {found['triple']}, {found['libc']}"),
        ("steps", f"{found['steps']} with {found['kernels']} different kernels"),
        ("MACs", count(found["macs"])),
        ("weights", size(memory["weights"])),
        ("arena", f"{size(memory['arena'])}, {above:.1%} above the least any plan needs"),
        *(_of_processors(found) if "gpu" not in found else []),
        ("written", size(made.size)),
        ("compiler", found["versions"]["toolchain"]),
        ("seconds", ", ".join(f"{stage} {s:.1f}" for stage, s in made.seconds.items())),
    ]
    out = console()
    print_rows(out, ["", found["model"]["name"]], rows)
    if made.error is None:
        out.print(f"not compared with ONNX Runtime: {made.unverified}", markup=False)
    else:
        out.print(
            f"equal to ONNX Runtime: worst error {error(made.error)} ≤ {error(made.tolerance)} "
            f"({found['verified'].rpartition(', ')[2]})",
            markup=False,
        )
    for name, reason in found["left_out"].items():
        out.print(f"note: there is no {name}: {reason}", markup=False)
    for note in made.notes:
        out.print(f"note: {note}", markup=False)
    out.print(f"wrote {made.path}", markup=False)
    out.print(f"PASSED in {sum(made.seconds.values()):.1f} s")


def _of_processors(found: dict[str, Any]) -> list[tuple[str, str]]:
    from graphopt.report.figures import size

    memory = found["memory"]
    scratch = size(memory["scratch_per_thread"])
    return [
        ("transformed weights", f"{size(memory['lasting'])}, made when it is loaded"),
        ("scratch", f"{scratch} for each of {found['threads']} threads"),
    ]


def _print_run(found: dict[str, Any]) -> None:
    from graphopt.report.terminal import console, print_rows

    out = console()
    if found["layers"]:
        whole = sum(v["ms"] for v in found["layers"]) or 1.0
        print_rows(
            out,
            ["layer", ">ms", ">%", ">MMAC", ">GMAC/s"],
            (_layer_row(v, whole) for v in found["layers"]),
        )
    print_rows(
        out,
        ["output", "type", "shape", ">least", ">mean", ">most"],
        (
            [v["name"], v["dtype"], "×".join(map(str, v["shape"])), *_three(v)]
            for v in found["outputs"]
        ),
    )
    if found["ms"]:
        out.print(
            f"{found['ran']}: median {found['ms']['median']:.3f} ms, least {found['ms']['least']:.3f} "
            f"({found['ms']['runs']} runs, {found['threads']} threads)",
            markup=False,
        )
    else:
        out.print(f"run by {found['ran']}, whose times say nothing of the board", markup=False)


def _layer_row(layer: dict[str, Any], whole: float) -> list[str]:
    ms, macs = layer["ms"], layer["macs"]
    speed = f"{macs / ms / 1e6:.1f}" if ms and macs else ""
    products = f"{macs / 1e6:.2f}" if macs else ""
    return [layer["name"], f"{ms:.4f}", f"{100 * ms / whole:.1f}", products, speed]


def _three(value: dict[str, Any]) -> list[str]:
    return [f"{value[k]:.4g}" for k in ("least", "mean", "most")]
