"""graphopt targets: the boards networks are compiled for."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import Json, print_json

app = typer.Typer()


@app.command()
def targets(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Show one board in full; a .toml file describes one of your own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lists the boards networks are compiled for: cores, peaks, memory, ABIs."""
    from graphopt.runtime.targets import TARGETS, target

    found = [target(n) for n in ([name] if name else TARGETS)]
    if as_json:
        print_json([_document(t) for t in found])
        return
    from graphopt.report.terminal import console, print_rows

    if name:
        _print_board(found[0])
        return
    print_rows(
        console(),
        [
            *("target", "what it is", "cores", ">float32", ">float16", ">int8"),
            *("default", ">GB/s", "ABIs"),
        ],
        (_row(t) for t in found),
    )
    typer.echo("Peaks in GMAC/s. `graphopt targets NAME` shows one board in full.")


def _row(board: Any) -> list[str]:
    processor = f"{board.cores}× {board.core}" if board.gpu is None else board.gpu.arch
    return [
        board.name,
        board.description,
        processor,
        *(_peak(board, p) for p in ("float32", "float16", "int8")),
        board.default_precision,
        f"{board.gigabytes_per_second:g}",
        ", ".join(a.name for a in board.abis),
    ]


def _peak(board: Any, precision: str) -> str:
    return f"{board.peak(precision) / 1e9:.0f}" if precision in board.precisions else "-"


def _print_board(board: Any) -> None:
    rows = [
        ("cpu", f"{board.cpu}, scheduled as {board.tune_cpu}"),
        ("features", " ".join(board.features)),
        ("vectors", f"{board.vector_registers} of {board.vector_bits} bits"),
        *(("cluster", _cluster(c)) for c in board.clusters),
        ("l3", _kib(board.l3_bytes) if board.l3_bytes else "none"),
        ("gpu", _gpu(board.gpu) if board.gpu else "computes nothing"),
        ("memory", _memory(board)),
        *(("abi", f"{abi}: {abi.triple}") for abi in board.abis),
        *((p, f"{_peak(board, p)} GMAC/s{_default(board, p)}") for p in board.precisions),
        *((p, f"refused: {why}") for p, why in board.unsupported.items()),
    ]
    typer.echo(f"{board.name}: {board.description}\n")
    for key, text in rows:
        typer.echo(f"  {key:<9} {text}")


def _cluster(cluster: Any) -> str:
    numbers = ", ".join(map(str, cluster.cpus))
    shared = "shared" if cluster.l2_shared else "each"
    use = "" if cluster.runs_network else "; stays free"
    return (
        f"{len(cluster.cpus)}× {cluster.core} (cpu {numbers}) at {cluster.gigahertz:g} GHz, L1d "
        f"{_kib(cluster.l1d_bytes)} each, L2 {_kib(cluster.l2_bytes)} {shared}{use}"
    )


def _gpu(gpu: Any) -> str:
    return f"{gpu.arch}, {gpu.cores} cores at {gpu.gigahertz:g} GHz, programmed in {gpu.kind}"


def _memory(board: Any) -> str:
    size = "" if board.memory_bytes is None else f"{board.memory_bytes / (1 << 30):.3g} GiB, "
    return f"{size}{board.gigabytes_per_second:g} GB/s"


def _default(board: Any, precision: str) -> str:
    return ", used if nothing else is said" if precision == board.default_precision else ""


def _kib(count: int) -> str:
    return f"{count >> 10} KiB"


def _document(board: Any) -> dict[str, Any]:
    """The board's data as JSON has it, with the peaks that follow."""
    from dataclasses import asdict

    peaks = {p: board.peak(p) for p in board.precisions}
    return {**asdict(board), "cores": board.cores, "macs_per_second": peaks}
