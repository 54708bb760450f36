"""What every command shares: option types, progress, JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
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


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal; with -v a line per step elsewhere; silence otherwise."""
    if not sys.stderr.isatty():
        from graphopt.pipeline import silent

        yield (
            (lambda text: typer.echo(f"graphopt: {text}", err=True))
            if Verbosity.verbose
            else silent
        )
        return
    from graphopt.report.terminal import console

    with console(stderr=True).status("starting") as status:
        yield lambda text: status.update(text)


def print_json(value: Any) -> None:
    """A value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
