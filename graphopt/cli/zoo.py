"""graphopt zoo: networks of the published systems, as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import Json, print_json, progress

zoo_app = typer.Typer(
    help="Networks of the published systems, as ONNX files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """Lists the networks with their published sizes."""
    from dataclasses import asdict

    from graphopt.report.terminal import console, print_rows
    from graphopt.zoo import names, spec

    rows = [asdict(spec(n)) for n in names()]
    if as_json:
        print_json(rows)
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
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How many classes; as published if not given."),
    ] = None,
    width: Annotated[float, typer.Option(help="A factor for the channels inside.")] = 1.0,
) -> None:
    """Writes a network as an ONNX file, BatchNorm kept and parameter names as in torch."""
    from graphopt.frontends.normal_form import normalize
    from graphopt.frontends.onnx_file import save
    from graphopt.ir.cost import cost_of
    from graphopt.report.figures import count
    from graphopt.report.terminal import console
    from graphopt.zoo import export

    with progress() as telling:
        telling(f"building and exporting {name}")
        model = export(
            name,
            decode=decode,
            weights=weights,
            seed=seed,
            input_size=input_size,
            classes=classes,
            width=width,
        )
        graph = normalize(model)
        telling("writing")
        save(graph, output)
    cost = cost_of(graph)
    console().print(
        f"wrote {output}: {cost.nodes} nodes, {count(cost.parameters)} parameters, "
        f"{2 * cost.macs / 1e9:.1f} GFLOPs",
        markup=False,
    )


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
