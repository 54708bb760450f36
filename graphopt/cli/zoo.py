"""graphopt zoo: networks of the published systems, as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from graphopt.cli.common import Json, Model, print_json, progress
from graphopt.errors import UsageError

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
    from graphopt.zoo.trained import NAME as TRAINED

    rows = [asdict(spec(n)) for n in names()]
    if as_json:
        print_json(rows)
        return
    print_rows(
        console(),
        ["network", "task", "input", ">classes", ">params (M)", ">GFLOPs", "published by"],
        (_zoo_row(r) for r in rows),
    )
    console().print(
        f"and {TRAINED}, a trained one: finds drawn shapes (graphopt evaluate --data shapes:test)",
        markup=False,
    )


@zoo_app.command("export")
def zoo_export(
    name: Annotated[
        str, typer.Argument(help="A network of `graphopt zoo list`, or shapes-detector (trained).")
    ],
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
    width: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="A factor for the channels inside."),
    ] = None,
) -> None:
    """Writes a network as an ONNX file, BatchNorm kept and parameter names as in torch."""
    from graphopt.frontends.normal_form import normalize
    from graphopt.frontends.onnx_file import save
    from graphopt.ir.cost import cost_of
    from graphopt.report.figures import count
    from graphopt.report.terminal import console
    from graphopt.zoo import export
    from graphopt.zoo.trained import NAME as TRAINED
    from graphopt.zoo.trained import trained_example

    with progress() as telling:
        telling(f"building and exporting {name}")
        if name == TRAINED:
            if decode or any(v is not None for v in (weights, input_size, classes, width)):
                raise UsageError(f"{TRAINED} is as it was trained: it takes no options but -o")
            graph = trained_example()
        else:
            model = export(
                name,
                decode=decode,
                weights=weights,
                seed=seed,
                input_size=input_size,
                classes=classes,
                width=1.0 if width is None else width,
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


@zoo_app.command("weights")
def zoo_weights(
    model: Model,
    network: Annotated[str, typer.Option(help="Which network of the zoo it is.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A .safetensors file.")],
    width: Annotated[float, typer.Option(help="A factor for the channels inside.")] = 1.0,
) -> None:
    """Writes the weights of a network of the zoo that was trained, for `zoo export --weights`."""
    from graphopt.frontends.onnx_file import load
    from graphopt.report.terminal import console
    from graphopt.zoo.trained import classes_of, save_weights

    graph = load(model)
    size = graph.inputs[0].shape[-1]
    classes = classes_of(graph, network)
    about = {"network": network, "classes": classes, "width": width, "input-size": size}
    save_weights(graph, output, about)
    console().print(f"wrote {output}: {output.stat().st_size / 1e6:.2f} MB", markup=False)


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
