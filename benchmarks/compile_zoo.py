"""Every network of the zoo compiled for boards, and what its bundle computes beside ONNX Runtime.

    python -m benchmarks.compile_zoo [--only NAME] [--boards host,tx2,kirin990] [--int8]
                                     [--size 96] [--json FILE] [--markdown FILE]

Networks are small enough for an emulator to run (input sizes of 96 pixels, or the smallest a network
takes). float16 is asked for where a board has it. With --int8 they are quantized first, on noise: what is
compared is the compiled network with the quantized one, not accuracy. A bundle is run by its own program,
here or in the emulator, on inputs it draws.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.markdown import as_markdown
from graphopt.compile import compile_file
from graphopt.errors import GraphoptError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import save
from graphopt.pipeline import Pipeline
from graphopt.quantize import quantizing
from graphopt.registry import default_passes
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.targets import target
from graphopt.zoo import export, names

_CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Row:
    """One network on one board; `failure` is empty when its outputs were compared.

    Attributes:
        beyond: bytes of the bundle without its weights.
        arena: over the least any plan needs.
    """

    network: str
    board: str
    precision: str
    error: float = 0.0
    tolerance: float = 0.0
    seconds: float = 0.0
    megabytes: float = 0.0
    beyond: float = 0.0
    arena: float = 0.0
    failure: str = ""


def main() -> None:
    """Prints a row for every network, board and precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--boards", default="host,tx2,kirin990", help="comma-separated")
    parser.add_argument("--int8", action="store_true", help="quantize first")
    parser.add_argument("--size", type=int, default=96, help="of inputs, in pixels")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args()
    rows = list(compiled(args))
    print_rows(console(), HEAD, map(cells, rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(page(rows))


def compiled(args: argparse.Namespace) -> Iterator[Row]:
    """A row for every network, board and precision."""
    for name in (n for n in names() if args.only in n):
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            try:
                _write(name, args.size, model, int8=args.int8)
            except GraphoptError as error:
                yield Row(name, "", "int8" if args.int8 else "", failure=str(error)[:200])
                continue
            for board in args.boards.split(","):
                for precision in ("int8",) if args.int8 else _precisions(board):
                    row = _row(name, board, precision, model, Path(folder))
                    console().print(f"{name} {board} {precision}: {row.failure or row.error}")
                    yield row


def _precisions(board: str) -> tuple[str, ...]:
    halves = "float16" not in target(board).unsupported
    return ("float32", "float16") if halves else ("float32",)


def _write(name: str, size: int, model: Path, *, int8: bool) -> None:
    pixels = 32 if name.startswith(("wrn", "resnet20")) else size
    graph = normalize(export(name, input_size=pixels, dynamic_batch=False))
    if int8:
        graph = Pipeline(default_passes()).run(graph).graph
        shape = (_CALIBRATION_IMAGES, *graph.inputs[0].shape[1:])
        images = model.with_name("images.npy")
        np.save(images, np.random.default_rng(0).random(shape, np.float32))
        passes = quantizing(str(images), repair="", floor=0.0)
        graph = Pipeline(passes).run(graph).graph
    save(graph, model)


def _row(name: str, board: str, precision: str, model: Path, folder: Path) -> Row:
    started = time.perf_counter()
    try:
        made = compile_file(
            model,
            folder / f"{board}.{precision}",
            target=target(board),
            abi=target(board).emulated_abi,
            precision=None if precision == "int8" else precision,
            verify=True,
        )
    except GraphoptError as error:
        return Row(name, board, precision, failure=str(error)[:200])
    memory = made.manifest["memory"]
    return Row(
        name,
        board,
        made.manifest["precision"],
        error=made.error or 0.0,
        tolerance=made.tolerance,
        seconds=time.perf_counter() - started,
        megabytes=made.size / 1e6,
        beyond=(made.size - memory["weights"]) / 1e6,
        arena=memory["arena"] / max(1, memory["arena_lower_bound"]),
        failure=made.unverified,
    )


HEAD = [
    *("network", "board", "precision", ">error", ">tolerance", ">bundle MB", ">beyond weights"),
    *(">arena / least", ">s", "failure"),
]


def cells(row: Row) -> list[str]:
    """A row of the table."""
    if row.failure:
        return [row.network, row.board, row.precision, *[""] * 6, row.failure]
    return [
        row.network,
        row.board,
        row.precision,
        f"{row.error:.1e}",
        f"{row.tolerance:.0e}",
        f"{row.megabytes:.1f}",
        f"{row.beyond:.1f}",
        f"{row.arena:.3f}",
        f"{row.seconds:.0f}",
        "",
    ]


def page(rows: list[Row]) -> str:
    """The page of docs/."""
    text = (__doc__ or "").split("\n\n")
    return "\n".join(
        [
            "# The zoo compiled",
            "",
            "`python -m benchmarks.compile_zoo --markdown docs/compiled-zoo.md` makes this page anew.",
            *text[2].splitlines(),
            "",
            as_markdown(HEAD, map(cells, rows)),
            "",
        ]
    )


if __name__ == "__main__":
    main()
