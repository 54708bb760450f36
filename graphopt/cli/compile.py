"""graphopt compile and graphopt run: a network as native code for a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import File, Json, Model, Names, Text, print_json, progress
from graphopt.errors import UsageError

app = typer.Typer()


@app.command("compile")
def compile_(
    model: Model,
    board: Annotated[
        str, typer.Option("--target", help="A board of `graphopt targets`, host, or a .toml file.")
    ],
    output: Annotated[
        File, typer.Option("-o", "--output", help="The bundle's folder; MODEL.TARGET if not given.")
    ] = None,
    abi: Annotated[
        Text, typer.Option(help="What programs link against there; the board's first if not given.")
    ] = None,
    size: Annotated[
        Names, typer.Option(metavar="NAME=640", help="A number for a named dimension of an input.")
    ] = None,
    precision: Annotated[Text, typer.Option(help="float32 (the default) or float16.")] = None,
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
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Compiles MODEL to a self-contained C library and a program that runs it on the board."""
    from graphopt.compile import compile_file
    from graphopt.runtime.targets import target

    chosen = target(board)
    folder = output or model.with_name(f"{model.stem}.{chosen.name}")
    with progress() as telling:
        made = compile_file(
            model,
            folder,
            target=chosen,
            abi=abi,
            sizes=_sizes(size or []),
            precision=precision,
            optimize=optimize,
            toolchain=toolchain,
            verify=verify,
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
        "bundle": str(made.folder),
        "bundle_bytes": made.bundle_bytes,
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
        ("transformed weights", f"{size(memory['lasting'])}, made when it is loaded"),
        ("scratch", f"{size(memory['scratch_per_thread'])} for each of {found['threads']} threads"),
        ("bundle", size(made.bundle_bytes)),
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
    out.print(f"wrote {made.folder}", markup=False)
    out.print(f"PASSED in {sum(made.seconds.values()):.1f} s")


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
