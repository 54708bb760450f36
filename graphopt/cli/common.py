"""What every command shares: option types, progress, JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.errors import UsageError

Model = Annotated[Path, typer.Argument(help="An ONNX file.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Shapes = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this annotation at run time on Python 3.10
    typer.Option("--input-shape", metavar="NAME:1,3,416,416", help="Fix an input's shape."),
]
Names = Optional[list[str]]  # noqa: UP045
Text = Optional[str]  # noqa: UP045
File = Optional[Path]  # noqa: UP045

Report = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Write report.json and report.html into this folder."),
]
Folder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Checkpoints and logs; an interrupted run there goes on."),
]
Device = Annotated[str, typer.Option(help="cpu, or auto for a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Two runs with one seed write the same bytes.")]
Measure = Annotated[bool, typer.Option(help="Time both models in ONNX Runtime.")]
DecoderName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--decoder", help="What the outputs mean, e.g. yolov5; found from them if clear."),
]


class Verbosity:
    """Set once by the options before the command."""

    verbose = False


def shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """The shapes in --input-shape options."""
    found: dict[str, list[int]] = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        try:
            shape = [int(d) for d in dims.split(",")]
        except ValueError:
            shape = []
        if not colon or not name or not shape or min(shape) < 1:
            raise UsageError(f"--input-shape {text!r}: write NAME:1,3,416,416 with positive sizes")
        found[name] = shape
    return found


def checked_decoder(decoder: str | None) -> None:
    """Refuses "module:function": the command line imports nobody's code."""
    if decoder is not None and ":" in decoder:
        raise UsageError(f"decoder {decoder!r}: functions of your own are taken from Python only")


class Telling:
    """Says what is going on: a spinner on a terminal, lines elsewhere with -v, else nothing."""

    def __init__(self, status: Any = None) -> None:
        self._status = status

    def __call__(self, text: str) -> None:
        """Something starts."""
        if self._status is not None:
            self._status.update(text)
        elif Verbosity.verbose:
            typer.echo(f"graphopt: {text}", err=True)

    def watch(self) -> Any:
        """What shows a training run: its own line in the spinner's place, a line per epoch."""
        from graphopt.training.watch import Terminal

        return Terminal(self._status)


@contextlib.contextmanager
def progress() -> Iterator[Telling]:
    """What tells a user on stderr that something is going on."""
    if not sys.stderr.isatty():
        yield Telling()
        return
    from graphopt.report.terminal import console

    with console(stderr=True).status("starting") as status:
        yield Telling(status)


def checked_report(report: Path | None) -> None:
    """Refuses a folder for the report that cannot be one, before hours of work."""
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report} is a file; name a folder for the report")


def finish(
    run: Any,
    target: Path,
    report: Path | None,
    started: float,
    *,
    as_json: bool,
    more: Sequence[str] = (),
) -> None:
    """Writes the report of a run and prints its tables, or its JSON."""
    from graphopt.report.document import document, to_json
    from graphopt.report.terminal import (
        console,
        print_optimized,
        print_pruning,
        print_quantization,
        print_training,
    )

    content = document(run)
    if report is not None:
        from graphopt.report.html import write_report

        more = [*more, f"report: {write_report(content, report)}"]
    if as_json:
        sys.stdout.write(to_json(content))
        return
    out = console()
    if content["pruning"]:
        print_pruning(out, content["pruning"])
    if content["training"]:
        print_training(out, content["training"])
    if content["quantization"]:
        print_quantization(out, content["quantization"], content["accuracy"])
    print_optimized(out, content)
    for line in [f"wrote {target}", *more]:
        out.print(line, markup=False)
    out.print(f"PASSED in {time.perf_counter() - started:.1f} s")


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
