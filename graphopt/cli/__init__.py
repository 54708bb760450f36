"""The command line: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from graphopt import processes
from graphopt.cli.common import Verbosity
from graphopt.cli.compile import app as compile_app
from graphopt.cli.distill import app as distill_app
from graphopt.cli.evaluate import app as evaluate_app
from graphopt.cli.models import app as models_app
from graphopt.cli.prune import app as prune_app
from graphopt.cli.quantize import app as quantize_app
from graphopt.cli.recipe import recipe_app
from graphopt.cli.targets import app as targets_app
from graphopt.cli.train import app as train_app
from graphopt.cli.zoo import zoo_app
from graphopt.errors import GraphoptError

app = typer.Typer(
    name="graphopt",
    help="Makes trained vision networks smaller and faster, and proves that nothing else changed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help answers twice as fast
    pretty_exceptions_enable=False,
)
for commands in (
    models_app,
    prune_app,
    quantize_app,
    train_app,
    distill_app,
    evaluate_app,
    compile_app,
    targets_app,
):
    app.registered_commands += commands.registered_commands
app.add_typer(zoo_app, name="zoo")
app.add_typer(recipe_app, name="recipe")


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
    Verbosity.verbose = verbose


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code; errors are one line on stderr."""
    # Threads that wait for each other by spinning make training ten times slower as soon as
    # somebody else uses a core; has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not processes.is_first():
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until it ends
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
    told = sys.stderr if processes.is_first() else sys.__stderr__
    if Verbosity.verbose:
        traceback.print_exc(file=told)
    line = " ".join(reason.split())
    print(f"FAILED: {line}", file=told)
    raise SystemExit(code)
